"""A GPU session's results as a page in Markdown, however many of them there are yet."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking import table
from lenet_dist.benchmarking.figures import spread, spreads
from lenet_dist.benchmarking.gpu.programme import (
    SEED_LOOP,
    SEEDED,
    Scale,
    contests,
    in_processes,
    in_turn,
    name_of_contest,
    name_of_processes,
    name_of_resume,
    name_of_seed,
    name_of_speed,
    name_of_step,
    name_of_whole,
    processes_counts,
    profiled,
    resumed,
    variants,
    whole,
)
from lenet_dist.benchmarking.gpu.runs import Variant
from lenet_dist.benchmarking.table import Row
from lenet_dist.benchmarking.targets import ACCURACY

Report = dict[str, Any]
_HASH_DIGITS = 12


def text(report: Report, scale: Scale) -> str:
    """The whole page; a table is left out while it has no row."""
    found = Found(report, scale)
    blocks = [
        "# Measured on a GPU machine",
        _REHEARSAL if report["rehearsal"] else "",
        _conditions(report, found),
        *(f"## {title}\n\n{note}\n\n{body}" for title, note, body in _sections(found) if body),
        _missing(report),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


_REHEARSAL = "**A rehearsal, a few steps of everything: the figures mean nothing.**"


class Found:
    """The figures that there are, by the name of their measurement."""

    def __init__(self, report: Report, scale: Scale) -> None:
        self.figures = {
            name: outcome["figures"]
            for name, outcome in report["results"].items() if "figures" in outcome
        }  # fmt: skip
        self.scale = scale
        self.gpus = report["hardware"]["gpus"]

    def of(self, *names: str) -> list[dict[str, Any]]:
        """The figures of those of these measurements that are there."""
        return [self.figures[name] for name in names if name in self.figures]

    def speeds(self, variant: Variant) -> list[dict[str, Any]]:
        """A variant's short runs, by round."""
        rounds = range(1, self.scale.rounds + 1)
        return self.of(*(name_of_speed(variant, number) for number in rounds))

    def hash_of(self, variant: Variant) -> str | None:
        """Of the weights after a variant's short run."""
        return next((run["weights_sha256"] for run in self.speeds(variant)), None)


def _conditions(report: Report, found: Found) -> str:
    hardware, versions = report["hardware"], report["versions"]
    gpu = f"{hardware['gpus']} x {hardware['gpu']}, driver {report['driver']}; "
    commits = {outcome["git_commit"] or "unknown" for outcome in report["results"].values()}
    lines = [
        f"Made by `{report['commands'][-1]}`; calls: {len(report['commands'])};"
        f" commit: {', '.join(sorted(commits))}.",
        f"{gpu if hardware['gpus'] else ''}{hardware['cpu']}, {hardware['cores']} cores,"
        f" {report['memory_gib']:.0f} GiB;",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version) + ".",
    ]
    for limits in found.of("limits"):
        lines.append(
            f"Copying: {limits['copy_gb_per_second']:,.0f} GB/s, read and written. float32 matrix"
            f" products: {limits['fp32_gigaflops'] / 1e3:,.1f} TFLOP/s."
        )
    for tests in found.of("tests"):
        lines.append(f"Tests: {tests['summary']}.")
    return "\n".join(lines)


def _sections(found: Found) -> Iterable[tuple[str, str, str]]:
    """Title, note and table of each part."""
    yield "The same bits", _BITS, _table(["run", "and the same", "weights", ""], _bits(found))
    yield (
        "Steps a second", _SPEED,
        _table(["run", "batch", "steps/s", "images/s", "n", "weights"], _speeds(found)),
    )  # fmt: skip
    yield "What each gains", _RATIO, _table(["steps/s", "ratio", "rounds", "n"], _ratios(found))
    yield (
        "A step against its launches", _STEP,
        _table(
            ["", "µs a step", "kernels", "busy µs", "gaps µs", "launches", "floor µs", "longest"],
            _steps(found),
        ),
    )  # fmt: skip
    head = ["run", "s training", "of it to the first line", "s in all", "test accuracy", "n", ""]
    yield "Seconds to 99.0%", _WHOLE, _table(head, [*_whole(found), *_seeds(found)])
    for _, head, rows in table.groups(contenders(found)):
        yield "Beside what one would use instead", _CONTENDERS, _table(head, rows)


_BITS = f"The SHA-256 of the weights (its first {_HASH_DIGITS} digits) of runs that must be equal."
_SPEED = (
    "Short runs of the recipes. A run's figure is the median of ten spans between lines, the first"
    " span left out; here: the median of n runs, least and greatest."
)
_RATIO = "Taken in turn, round after round: the median of the rounds' ratios, least and greatest."
_STEP = (
    "The step alone, without loader and loop. Busy: some kernel runs, by the profiler. Gaps: the"
    " rest of the step as timed without the profiler. Floor: launching as many kernels that do"
    " nothing, in a graph or one by one."
)
_WHOLE = (
    "Whole runs: the run's own seconds of training, in which kernels are loaded and the step is"
    " captured before the first line; data and evaluation are not in it."
)
_CONTENDERS = (
    "`lenet_dist.benchmark`'s contenders, each in a fresh process; docs/benchmarks/README.md says"
    " what they are. The job's images/s leave out what comes before its first line, as those of the"
    " loops leave out their first ten steps."
)


def _bits(found: Found) -> list[Row]:
    pairs: list[tuple[str, str, str | None, str | None]] = []
    for variant in variants(found.scale):
        if variant.is_captured:
            plain = Variant(variant.recipe, variant.precision, False, variant.reduction)
            hashes = found.hash_of(variant), found.hash_of(plain)
            pairs.append((str(variant), "without the graph", *hashes))
        for number, run in enumerate(found.speeds(variant)[1:], 2):
            hashes = found.hash_of(variant), run["weights_sha256"]
            pairs.append((str(variant), f"again, round {number}", *hashes))
    for count, shares_gpu in processes_counts(found.gpus):
        for variant in in_processes(found.scale, shares_gpu):
            if variant.reduction == "fixed":
                how = f"{count} processes" + (", one GPU" if shares_gpu else ", a GPU each")
                for run in found.of(name_of_processes(variant, count, shares_gpu)):
                    hashes = found.hash_of(variant), run["weights_sha256"]
                    pairs.append((str(variant), how, *hashes))
    for variant in resumed(found.scale):
        for run in found.of(name_of_resume(variant)):
            pairs.append((str(variant), "stopped and resumed", run["whole"], run["parts"]))
    return [
        [what, other, a[:_HASH_DIGITS], "equal" if a == b else f"NOT EQUAL: {b[:_HASH_DIGITS]}"]
        for what, other, a, b in pairs
        if a is not None and b is not None
    ]


def _speeds(found: Found) -> list[Row]:
    names = [(str(variant), found.speeds(variant)) for variant in variants(found.scale)]
    for count, shares_gpu in processes_counts(found.gpus):
        for variant in in_processes(found.scale, shares_gpu):
            name = name_of_processes(variant, count, shares_gpu)
            names.append((name, found.of(name)))
    rows = []
    for name, runs in names:
        if runs:
            size = runs[0]["batch_size"]
            speed = spread([run["steps_per_second"]["median"] for run in runs])
            images = f"{size * speed['median']:,.0f}"
            digits = runs[0]["weights_sha256"][:_HASH_DIGITS]
            rows.append([name, str(size), _range(speed), images, str(len(runs)), digits])
    return rows


def _ratios(found: Found) -> list[Row]:
    compared = in_turn(found.scale)
    rows = []
    for over in compared:
        for under in compared:
            if sum(a != b for a, b in zip(_parts(over), _parts(under), strict=True)) != 1:
                continue
            if _parts(over) < _parts(under):
                continue
            numbers = range(1, found.scale.rounds + 1)
            pairs = [found.of(*(name_of_speed(v, n) for v in (over, under))) for n in numbers]
            rounds = [
                pair[0]["steps_per_second"]["median"] / pair[1]["steps_per_second"]["median"]
                for pair in pairs if len(pair) == 2
            ]  # fmt: skip
            if rounds:
                least = f"{min(rounds):.2f} to {max(rounds):.2f}"
                ratio = f"{statistics.median(rounds):.2f}"
                rows.append([f"{over} / {under}", ratio, least, str(len(rounds))])
    return rows


def _parts(variant: Variant) -> tuple[bool, bool, bool]:
    """What makes a variant fast, in the order in which ratios are formed."""
    return variant.precision == "bf16", variant.is_captured, variant.reduction == "ddp"


def _steps(found: Found) -> list[Row]:
    rows = []
    for variant in profiled(found.scale):
        for step in found.of(name_of_step(variant)):
            longest = list(step["most"].items())[:2]
            rows.append(
                [
                    str(variant),
                    f"{step['step_us']:,.0f} ({step['least_us']:,.0f}"
                    f" to {step['greatest_us']:,.0f})",
                    f"{step['kernels']:,.0f}", f"{step['busy_us']:,.0f}",
                    f"{step['gaps_us']:,.0f}", f"{step['launches']:,.0f}",
                    _floor(found, variant, step),
                    "; ".join(f"{name[:40]} {took:,.0f}" for name, took in longest),
                ]
            )  # fmt: skip
    return rows


def _floor(found: Found, variant: Variant, step: dict[str, Any]) -> str:
    for limits in found.of("limits"):
        if not variant.is_captured:
            return f"{limits['launch_us'] * step['kernels']:,.0f}"
        if "graph_us" in limits:
            floor = limits["graph_us"] + limits["kernel_in_graph_us"] * (step["kernels"] - 1)
            return f"{floor:,.0f}"
    return ""


def _whole(found: Found) -> list[Row]:
    rows = []
    for variant in whole(found.scale, "fast", "default", "best"):
        for run in found.of(name_of_whole(variant)):
            rows.append(_whole_row(str(variant), [run]))
    rows += [_whole_row(SEED_LOOP, [loop]) for loop in found.of(SEED_LOOP)]
    return rows


def _seeds(found: Found) -> list[Row]:
    rows = []
    for variant in SEEDED:
        runs = found.of(*(name_of_seed(variant, seed) for seed in range(found.scale.seeds)))
        if runs:
            rows.append(_whole_row(f"{variant}, seeds", runs))
    return rows


def _whole_row(name: str, runs: Sequence[dict[str, Any]]) -> Row:
    def cell(figure: str, form: str = ",.2f") -> str:
        return _range(spread([run[figure] for run in runs]), form) if figure in runs[0] else ""

    reached = sum(run["accuracy"] >= ACCURACY for run in runs)
    return [
        name, cell("train_seconds"), cell("first_seconds"), cell("total_seconds"),
        cell("accuracy", ".2%"), str(len(runs)), f"{reached} reached it",
    ]  # fmt: skip


def _range(values: dict[str, Any], form: str = ",.2f") -> str:
    """Median, least and greatest; one value stands alone."""
    median, least, greatest = (format(values[key], form) for key in ("median", "min", "max"))
    return f"{median} ({least} to {greatest})" if len(values["rounds"]) > 1 else median


def contenders(found: Found) -> dict[str, dict[str, dict[str, Any]]]:
    """The group `speed` as the benchmark has it, as far as it is measured."""
    cases: dict[str, dict[str, Any]] = {}
    for contest in contests(found.scale, found.gpus, Path()):
        numbers = range(1, found.scale.contest_rounds + 1)
        if rounds := found.of(*(name_of_contest(contest, number) for number in numbers)):
            cases.setdefault(contest.case, {})[contest.contender] = spreads(rounds)
    return {"speed": cases} if cases else {}


def _table(head: Row, rows: list[Row]) -> str:
    return table.in_markdown(head, rows) if rows else ""


def _missing(report: Report) -> str:
    failed = [
        f"- {name}: {outcome['failed'].splitlines()[0]}"
        for name, outcome in report["results"].items() if "failed" in outcome
    ]  # fmt: skip
    left = [f"- {name}" for name in report["not_measured"]]
    blocks = (("## Failed", failed), ("## Not measured: no time", left))
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in blocks if lines)
