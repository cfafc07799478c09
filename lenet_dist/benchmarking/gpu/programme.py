"""What is measured on a GPU machine, the most important first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking import measurements
from lenet_dist.benchmarking.gpu import runs
from lenet_dist.benchmarking.gpu.child import Slot, call
from lenet_dist.benchmarking.gpu.runs import PRECISIONS, Variant
from lenet_dist.benchmarking.measurements import Contest, Request
from lenet_dist.benchmarking.trial import take

REDUCTIONS = ("fixed", "ddp")
_TESTS = Path(__file__).parents[3] / "tests"


@dataclass(frozen=True)
class Scale:
    """How much of everything is measured."""

    recipes: tuple[str, ...]
    precisions: tuple[str, ...]
    steps: dict[str, int]
    """Of a short run, by reduction: 11 lines, of some milliseconds each at least."""
    rounds: int
    """Of the variants that are compared in turn."""
    whole_keys: tuple[str, ...]
    """Overrides of the runs that train to the end."""
    seeds: int
    resumed_steps: int
    profiled: tuple[str, ...]
    """The recipes whose step is taken apart."""
    profiled_steps: int
    sizes: tuple[int, ...]
    """The contenders' batch sizes."""
    contenders: tuple[str, ...] | None
    """None: all."""
    contest_rounds: int
    contest_share: float
    """Of the benchmark's usual steps."""
    accuracy_steps: int | None
    """The seed loop's, on its way to 99.0%; None: until it is there."""
    test_files: tuple[str, ...]
    test_processes: int


FULL = Scale(
    recipes=("default", "fast", "seed", "best"), precisions=tuple(PRECISIONS),
    steps={"fixed": 220, "ddp": 1100}, rounds=5, whole_keys=(), seeds=30, resumed_steps=1500,
    profiled=("default", "fast"), profiled_steps=100, sizes=(64, 256, 1024, 4096), contenders=None,
    contest_rounds=3, contest_share=0.1, accuracy_steps=None, test_files=("test_gpu.py",),
    test_processes=4,
)  # fmt: skip

REHEARSAL = Scale(
    recipes=("default", "fast"), precisions=("no",),
    steps={"fixed": 11, "ddp": 11}, rounds=2, whole_keys=("train.max_steps=6",), seeds=1,
    resumed_steps=100, profiled=("fast",), profiled_steps=2, sizes=(64,), contenders=("bare_loop",),
    contest_rounds=1, contest_share=0.002, accuracy_steps=3,
    test_files=("test_gpu.py", "test_schedule.py"), test_processes=0,
)  # fmt: skip
"""On a CPU, to see that all of it runs."""


@dataclass(frozen=True)
class Measurement:
    """`seconds`: about how long it takes; `take` gives its figures or raises RunFailed."""

    name: str
    seconds: float
    take: Callable[[Slot], dict[str, Any]]


def programme(scale: Scale, gpus: int) -> Iterator[Measurement]:
    """All measurements, the most important first. `gpus`: how many there are."""
    default, *recipes = scale.recipes
    smallest, *sizes = scale.sizes
    yield Measurement("limits", 10, lambda slot: call(slot, "limits", "limits"))
    yield Measurement("tests", 60, lambda slot: _tests(slot, scale))
    yield from (_speed(scale, variant, 1) for variant in variants(scale, default))
    yield from _processes(scale, gpus)
    yield from (_resume(scale, variant) for variant in resumed(scale))
    yield from (_step(scale, variant) for variant in profiled(scale))
    yield from (_whole(scale, variant) for variant in whole(scale, "fast"))
    yield from _contests(scale, gpus, 1, [smallest])
    yield from (_speed(scale, variant, 1) for variant in variants(scale, "fast"))
    for number in range(2, scale.rounds + 1):
        yield from (_speed(scale, variant, number) for variant in in_turn(scale))
    for variant in SEEDED:
        yield from (_seed(scale, variant, seed) for seed in range(scale.seeds))
    yield from _contests(scale, gpus, 1, sizes)
    for recipe in recipes:
        if recipe != "fast":
            yield from (_speed(scale, variant, 1) for variant in variants(scale, recipe))
    yield from (_whole(scale, variant) for variant in whole(scale, default))
    yield _seed_loop(scale, gpus)
    yield from (_whole(scale, variant) for variant in whole(scale, "best"))
    for number in range(2, scale.contest_rounds + 1):
        yield from _contests(scale, gpus, number, scale.sizes)


def variants(scale: Scale, *recipes: str) -> list[Variant]:
    """These recipes, or all, in every precision, with and without the graph, in both reductions."""
    parts = product(recipes or scale.recipes, scale.precisions, (True, False), REDUCTIONS)
    return [Variant(*of) for of in parts]


def in_turn(scale: Scale) -> list[Variant]:
    """Those of the first recipe that are compared over several rounds."""
    found = variants(scale, scale.recipes[0])
    return [v for v in found if v.precision == "no" or (v.precision == "bf16" and v.is_captured)]


def profiled(scale: Scale) -> list[Variant]:
    """Those whose step is taken apart."""
    found = variants(scale, *scale.profiled)
    return [v for v in found if v.precision == "no" and (v.is_captured or v.recipe != "fast")]


def whole(scale: Scale, *recipes: str) -> list[Variant]:
    """Those of these recipes that are trained to the end."""
    found = [v for v in variants(scale) if v.recipe in recipes]
    return [v for v in found if v.is_captured]


SEED_LOOP = "the seed loop, until it is at 99.0%"
SEEDED = [Variant("fast", "no", True, reduction) for reduction in REDUCTIONS]
"""Trained to the end with many seeds."""


def contests(scale: Scale, gpus: int, data: Path) -> list[Contest]:
    """The benchmark's contenders, as far as they can be measured here."""
    request = Request(1, None, data, gpus, scale.contest_share)
    cases = list(map(_case, scale.sizes))
    return [
        contest
        for contest in measurements.CONTESTS["speed"](request)
        if contest.case in cases and not contest.not_measured
        and (scale.contenders is None or contest.contender in scale.contenders)
    ]  # fmt: skip


def _case(size: int) -> str:
    return f"batch {size}"


def processes_counts(gpus: int) -> list[tuple[int, bool]]:
    """Numbers of processes, and whether they share a GPU."""
    return [(2, True), *((count, False) for count in (2, 4, 8) if count <= gpus)]


def name_of_speed(variant: Variant, number: int) -> str:
    return f"speed of {variant}, round {number}"


def name_of_processes(variant: Variant, processes: int, shares_gpu: bool) -> str:
    how = "sharing a GPU, gloo" if shares_gpu else "a GPU each, NCCL"
    return f"{processes} processes, {how}: {variant}"


def name_of_resume(variant: Variant) -> str:
    return f"stop and resume: {variant}"


def name_of_step(variant: Variant) -> str:
    return f"a step of {variant}"


def name_of_whole(variant: Variant) -> str:
    return f"whole run of {variant}"


def name_of_seed(variant: Variant, seed: int) -> str:
    return f"{name_of_whole(variant)}, seed {seed}"


def name_of_contest(contest: Contest, number: int) -> str:
    return f"{contest.contender} at {contest.case}, round {number}"


def in_processes(scale: Scale, shares_gpu: bool) -> list[Variant]:
    """Those whose hash on several processes is compared with that on one."""
    found = variants(scale, scale.recipes[0])
    if shares_gpu:  # gloo can't be captured, and how fast it is does not matter.
        return [v for v in found if not v.is_captured and v.reduction == "fixed"]
    return found


def _tests(slot: Slot, scale: Scale) -> dict[str, Any]:
    files = [str(_TESTS / name) for name in scale.test_files]
    # The machine's own plugins may not fit the pytest that was carried there.
    options = ["--disable-plugin-autoload", "-p", "xdist.plugin", "-p", "no:cacheprovider"]
    options += ["--numprocesses", str(scale.test_processes), "--dist", "load"]
    folder = slot.folder / "tests"
    taken = take(["-m", "pytest", *options, *files], folder, limit_seconds=_left(slot))
    last = folder.with_suffix(".log").read_text().splitlines()[-1]
    return {"summary": last.strip("= "), "seconds": taken.seconds}


def _short(scale: Scale, variant: Variant) -> list[str]:
    steps = scale.steps[variant.reduction]
    return [f"train.max_steps={steps}", f"log.every_steps={steps // 11}"]


def _speed(scale: Scale, variant: Variant, number: int) -> Measurement:
    keys = _short(scale, variant)
    seconds = 5 if variant.is_captured else 10
    return Measurement(
        name_of_speed(variant, number), seconds, lambda slot: runs.train(slot, variant, *keys)
    )


def _processes(scale: Scale, gpus: int) -> Iterator[Measurement]:
    for count, shares_gpu in processes_counts(gpus):
        for variant in in_processes(scale, shares_gpu):
            yield _together(scale, variant, count, shares_gpu)


def _together(scale: Scale, variant: Variant, count: int, shares_gpu: bool) -> Measurement:
    def taken(slot: Slot) -> dict[str, Any]:
        keys = _short(scale, variant)
        return runs.train_together(slot, variant, *keys, processes=count, shares_gpu=shares_gpu)

    return Measurement(name_of_processes(variant, count, shares_gpu), 15, taken)


def resumed(scale: Scale) -> list[Variant]:
    """Those that are stopped and go on."""
    return [Variant(scale.recipes[0], "no", is_captured, "fixed") for is_captured in (True, False)]


def _resume(scale: Scale, variant: Variant) -> Measurement:
    # Without the graph a step takes ten times as long.
    steps = scale.resumed_steps // (1 if variant.is_captured else 5)
    keys = (f"train.max_steps={steps}", "log.every_steps=5")
    return Measurement(
        name_of_resume(variant), 20, lambda slot: runs.stop_and_resume(slot, variant, *keys)
    )


def _step(scale: Scale, variant: Variant) -> Measurement:
    def taken(slot: Slot) -> dict[str, Any]:
        asked = (str(variant.config), variant.overrides(slot.data), scale.profiled_steps)
        return call(slot, "kernels", "take_apart", *asked)

    return Measurement(name_of_step(variant), 10 if variant.is_captured else 20, taken)


def _whole(scale: Scale, variant: Variant) -> Measurement:
    seconds = {"fast": 8, "default": 20, "best": 70}[variant.recipe]
    return Measurement(
        name_of_whole(variant), seconds,
        lambda slot: runs.train(slot, variant, *scale.whole_keys),
    )  # fmt: skip


def _seed(scale: Scale, variant: Variant, seed: int) -> Measurement:
    keys = (*scale.whole_keys, f"seed={seed}")
    name = name_of_seed(variant, seed)
    return Measurement(name, 6, lambda slot: runs.train(slot, variant, *keys))


def _contests(scale: Scale, gpus: int, number: int, sizes: Sequence[int]) -> Iterator[Measurement]:
    for index, contest in enumerate(contests(scale, gpus, Path())):
        if contest.case not in map(_case, sizes):
            continue

        # Its arguments name the data's folder, which only the slot of the measurement knows.
        def taken(slot: Slot, index: int = index) -> dict[str, Any]:
            return _contest(slot, contests(scale, gpus, slot.data)[index])

        yield Measurement(name_of_contest(contest, number), 12, taken)


def _seed_loop(scale: Scale, gpus: int) -> Measurement:
    def taken(slot: Slot) -> dict[str, Any]:
        request = Request(1, scale.accuracy_steps, slot.data, gpus)
        _, loop = measurements.CONTESTS["time_to_accuracy"](request)
        return _contest(slot, loop)

    return Measurement(SEED_LOOP, 90, taken)


def _contest(slot: Slot, contest: Contest) -> dict[str, Any]:
    folder = slot.folder / "trial"
    taken = take(contest.arguments(folder), folder, limit_seconds=_left(slot))
    figures = measurements.figures(taken)
    if contest.contender == "job":  # The loops have a warm-up, which counts as little there.
        figures["images_per_second"] = runs.images_per_second(folder)["median"]
    return figures


def _left(slot: Slot) -> float:
    return max(0.0, slot.until - time.monotonic())
