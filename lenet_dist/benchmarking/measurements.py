"""What is measured: groups of trials, taken in turn, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking.figures import Entry, spreads
from lenet_dist.benchmarking.targets import BATCH_SIZES
from lenet_dist.benchmarking.trial import Taken, take
from lenet_dist.config import TRAINING_IMAGES

CONFIGS = Path(__file__).parents[2] / "configs"

_IMAGES = TRAINING_IMAGES["mnist"]
_FAST_IMAGES = 5 * _IMAGES
"""Images that a contender trains on in a trial if it takes them from memory."""
_SHORT_IMAGES = _IMAGES
"""The same, if many such trials are compared with each other."""
_SLOW_IMAGES = _IMAGES // 3
"""The same, if it decodes each image, which is several times slower."""
_GPU_FACTOR = 10
"""On a GPU, contenders train on this many times as many."""
_WARM_UP_STEPS = 10
_EPOCHS_TO_ACCURACY = 20
"""The seed loop is given up after this many epochs."""
_ROUNDS_TO_ACCURACY = 2
_EVALUATION_BATCH = 1000
_EVALUATION_PASSES = 3


@dataclass(frozen=True)
class Request:
    """What to measure: rounds, steps per trial (None: as usual), MNIST's folder, GPUs, and the
    share of a usual trial's steps that one has."""

    rounds: int
    steps: int | None
    data: Path
    gpus: int
    share: float = 1.0


@dataclass(frozen=True)
class Contest:
    """A contender in a case of a group."""

    case: str
    contender: str
    arguments: Callable[[Path], list[str]] = field(compare=False)
    """Gives the arguments of the `python` that takes a trial in a folder."""
    watch_metrics: bool = False
    not_measured: str = ""
    """Why it can't be measured here."""


Entries = dict[str, dict[str, Entry]]
"""A group's entries, by case and contender."""


def measure(group: str, request: Request, scratch: Path, say: Callable[[str], None]) -> Entries:
    """A group's entries."""
    contests = list(CONTESTS[group](request))
    possible = [contest for contest in contests if not contest.not_measured]
    taken: dict[Contest, list[Taken]] = {contest: [] for contest in possible}
    rounds = request.rounds
    if group == "time_to_accuracy":
        rounds = min(rounds, _ROUNDS_TO_ACCURACY)
    for number in range(1, rounds + 1):
        for index, contest in enumerate(possible):
            folder = scratch / f"{contest.contender}-{group}-{index}-{number}".replace(" ", "-")
            trial = take(contest.arguments(folder), folder, watch_metrics=contest.watch_metrics)
            taken[contest].append(trial)
            said = f"{group}, {contest.case}, {contest.contender}: {_headline(trial)}"
            say(f"round {number}/{rounds}: {said}")
    entries: Entries = {}
    for contest in contests:
        entry = (
            {"not_measured": contest.not_measured}
            if contest.not_measured
            else _entry(taken[contest])
        )
        entries.setdefault(contest.case, {})[contest.contender] = entry
    return entries


def _entry(trials: list[Taken]) -> Entry:
    last = trials[-1]
    return {
        **spreads([figures(trial) for trial in trials]),
        "threads": last.result.get("threads"),
        "device": last.result.get("device"),
        "command": last.command,
    }


def figures(trial: Taken) -> dict[str, float]:
    """The figures of a trial, as far as it has them."""
    result = trial.result
    seconds: dict[str, float] = result.get("seconds", {})
    taken = {
        # Tests between epochs are left out: only the document's loop has them.
        "total_seconds": trial.seconds - seconds.get("test", 0.0),
        "peak_mib": trial.peak_mib,
    }
    if "samples_per_second" in result:
        taken["images_per_second"] = result["samples_per_second"]
    if "train" in seconds:
        taken["train_seconds"] = seconds["train"]
    if "gigaflops" in result:
        taken["gigaflops"] = result["gigaflops"]
    if "test" in result:
        taken["accuracy"] = result["test"]["accuracy"]
    if trial.first_line_seconds is not None:
        taken["first_step_seconds"] = trial.first_line_seconds
    elif "first_step_at" in result:
        taken["first_step_seconds"] = result["first_step_at"] - trial.began_at
    elif not result:
        taken["first_step_seconds"] = trial.seconds
    return taken


def _headline(trial: Taken) -> str:
    taken = figures(trial)
    if "images_per_second" not in taken:
        return f"{trial.seconds:.2f} s"
    return f"{taken['images_per_second']:,.0f} images/s, {trial.seconds:.1f} s"


def _speed(request: Request) -> Iterator[Contest]:
    sizes = (*BATCH_SIZES, 4096) if request.gpus else BATCH_SIZES
    for size in sizes:
        fast, slow = (_steps(request, images, size) for images in (_FAST_IMAGES, _SLOW_IMAGES))
        case = f"batch {size}"
        yield Contest(case, "job", _job(request, fast, size))
        for loop in ("seed_loop", "seed_loop_workers", "accelerate_loop", "lightning"):
            arguments = _loop(request, loop, slow, size)
            yield Contest(case, loop, arguments, not_measured=_missing(loop))
        yield Contest(case, "bare_loop", _loop(request, "bare_loop", fast, size))
    limit = _loop(request, "arithmetic_limit", 1, 1)
    yield Contest("any batch", "arithmetic_limit", limit)


def _scaling(request: Request) -> Iterator[Contest]:
    for reduction in ("fixed", "ddp"):
        for kind in ("strong", "weak"):
            for count in _process_counts(request):
                size = 256 if kind == "strong" else 256 * count
                steps = _steps(request, _FAST_IMAGES, size)
                yield Contest(
                    f"{reduction}, {kind}", _processes(count),
                    _job(
                        request, steps, size, f"train.reduction={reduction}", "compute.threads=1",
                        processes=count,
                    ),
                )  # fmt: skip


def _reduction(request: Request) -> Iterator[Contest]:
    for size in BATCH_SIZES:
        for count in _process_counts(request)[:2]:
            for reduction in ("fixed", "ddp"):
                steps = _steps(request, _SHORT_IMAGES, size)
                key = f"train.reduction={reduction}"
                arguments = _job(request, steps, size, key, processes=count)
                yield Contest(f"batch {size}, {_processes(count)}", reduction, arguments)


def _audit(request: Request) -> Iterator[Contest]:
    steps = _steps(request, _FAST_IMAGES, 256)
    for count in _process_counts(request)[:2]:
        for contender, every in (("audited", 200), ("not audited", 0)):
            arguments = _job(
                request, steps, 256, f"compute.audit_every={every}", "compute.threads=1",
                processes=count,
            )  # fmt: skip
            yield Contest(f"batch 256, {_processes(count)}", contender, arguments)


def _start(request: Request) -> Iterator[Contest]:
    case = "first step"
    yield Contest(case, "imports", lambda _: ["-c", "import torch, accelerate"])
    yield Contest(case, "job", _job(request, 1, 64, "log.every_steps=1"), watch_metrics=True)
    for loop in ("seed_loop", "accelerate_loop", "lightning"):
        arguments = _loop(request, loop, 1, 64, warm_up=0)
        yield Contest(case, loop, arguments, not_measured=_missing(loop))


def _time_to_accuracy(request: Request) -> Iterator[Contest]:
    def job(folder: Path) -> list[str]:
        keys = ["log.report=false"]  # The document's loop makes no page either.
        keys += [f"train.max_steps={request.steps}"] if request.steps else []
        keys += ["compute.cuda_graph=true"] if request.gpus else []
        return _train(request, "fast.yaml", folder, *keys)

    case = "99.0% test"
    steps = request.steps or _EPOCHS_TO_ACCURACY * (_IMAGES // 64)
    loop = _loop(request, "seed_loop_to_accuracy", steps, 64, warm_up=0)
    yield Contest(case, "job", job)
    yield Contest(case, "seed_loop_to_accuracy", loop)


def _evaluation(request: Request) -> Iterator[Contest]:
    steps = request.steps or _EVALUATION_PASSES * 10_000 // _EVALUATION_BATCH
    for name in ("job", "seed", "accelerate"):
        arguments = _loop(request, f"{name}_evaluation", steps, _EVALUATION_BATCH, warm_up=2)
        yield Contest(f"batch {_EVALUATION_BATCH}", f"{name}_evaluation", arguments)


CONTESTS = {
    "speed": _speed,
    "scaling": _scaling,
    "reduction": _reduction,
    "audit": _audit,
    "start": _start,
    "time_to_accuracy": _time_to_accuracy,
    "evaluation": _evaluation,
}
"""By group, in the order in which they are measured: what gives the contests of a request."""

GROUPS = tuple(CONTESTS)


def _job(
    request: Request, steps: int, batch_size: int, *overrides: str, processes: int = 1
) -> Callable[[Path], list[str]]:
    """`lenet_dist.train` with the document's recipe, tracked offline, without its page."""
    epochs = steps // (_IMAGES // batch_size) + 1
    keys = (
        f"train.batch_size={batch_size}", f"train.max_steps={steps}", f"train.epochs={epochs}",
        f"train.shards={8 if batch_size < 256 else 16}",
        "log.report=false", f"compute.cuda_graph={str(request.gpus > 0).lower()}", *overrides,
    )  # fmt: skip
    return lambda folder: _train(request, "seed.yaml", folder, *keys, processes=processes)


def _train(
    request: Request, config: str, folder: Path, *keys: str, processes: int = 1
) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [
        *(launcher if processes > 1 else ()), "-m", "lenet_dist.train",
        "--config", str(CONFIGS / config), *keys,
        f"data.root={request.data}", "data.download=false", "wandb.mode=offline",
        f"run.root={folder.parent}", f"run.name={folder.name}",
    ]  # fmt: skip


def _loop(
    request: Request, name: str, steps: int, batch_size: int, warm_up: int = _WARM_UP_STEPS
) -> Callable[[Path], list[str]]:
    """A loop of `contenders`, by its name."""
    return lambda folder: [
        "-m", "lenet_dist.benchmark", "--contender", name, "--data-root", str(request.data),
        "--batch-size", str(batch_size), "--warm-up", str(warm_up), "--steps", str(steps),
        "--folder", str(folder),
    ]  # fmt: skip


def _steps(request: Request, images: int, batch_size: int) -> int:
    """Steps of a trial: those asked for, or enough for this many images."""
    usual = images * (_GPU_FACTOR if request.gpus else 1) // batch_size
    return request.steps or max(1, int(request.share * usual))


def _process_counts(request: Request) -> list[int]:
    """1 and 2 processes; on GPUs 1, 2, 4 and so on, as far as there is a GPU for each."""
    return [2**n for n in range(request.gpus.bit_length())] if request.gpus else [1, 2]


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _missing(contender: str) -> str:
    """Why a contender can't be measured here; empty if it can."""
    if contender != "lightning" or find_spec("lightning"):
        return ""
    return "pip install 'lenet_dist[lightning]'"


def machine() -> dict[str, Any]:
    """What is measured on: hardware, GPUs, versions, commit. It imports torch."""
    from importlib.metadata import version

    import torch

    from lenet_dist.machine.hardware import cores, cpu_name
    from lenet_dist.machine.versions import git_commit, versions

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hardware = {
        "cpu": cpu_name(), "cores": cores(), "gpus": gpus,
        "gpu": torch.cuda.get_device_name() if gpus else None,
    }  # fmt: skip
    software = {**versions(), "torchvision": version("torchvision")}
    if find_spec("lightning"):
        software["lightning"] = version("lightning")
    return {"hardware": hardware, "versions": software, "git_commit": git_commit()}
