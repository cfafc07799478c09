"""Which curves a page shows: of one run by step, of several by epoch, of a run's ranks."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest

from lenet_dist.report.plots import Curve, Plot, Scale, Series
from lenet_dist.run_dir.reader import EvaluationLine, RanksLine, Run, TrainLine
from lenet_dist.system import Place

TRAINING, VALIDATION = Series(0, "training"), Series(1, "validation")
"""The series of one run's curves."""

_EVALUATED: list[tuple[str, str, str, Scale]] = [
    ("loss", "Loss", "loss, cross-entropy", "log"),
    ("accuracy", "Accuracy", "accuracy, %", "logit"),
]
_TRAINED: list[tuple[str, str, str, Scale]] = [
    ("lr", "Learning rate", "learning rate", "linear"),
    ("samples_per_second", "Throughput", "images a second", "linear"),
]
"""The lines' attribute, title, y's label, y's scale."""

_MOST_RANKS = 16
"""Where there are more ranks, those that computed longest are shown."""


def of_run(run: Run) -> list[Plot]:
    """The plots of one run by optimizer step; none if it has no line yet."""
    plots = []
    for attribute, title, y_label, scale in _EVALUATED + _TRAINED:
        curves = [*_curve(TRAINING, run.train, attribute)]
        if attribute in ("loss", "accuracy"):
            curves += _curve(VALIDATION, run.validation, attribute)
        plots.append(Plot(title, y_label, "optimizer step", curves, scale, run.interruptions))
    return [plot for plot in plots if plot.curves]


def of_runs(runs: Sequence[Run], series: Sequence[Series]) -> list[Plot]:
    """The plots of several runs by epoch, each run in its series' style and under its label."""
    plots = []
    for part, kinds in (("training", _EVALUATED), ("validation", _EVALUATED), ("", _TRAINED)):
        for attribute, title, y_label, scale in kinds:
            curves: list[Curve] = []
            for run, entry in zip(runs, series, strict=True):
                lines = run.validation if part == "validation" else run.train
                curves += _curve(entry, lines, attribute, run.plan.steps_per_epoch)
            full_title = f"{title}, {part}" if part else title
            plots.append(Plot(full_title, y_label, "epoch", curves, scale))
    return [plot for plot in plots if plot.curves]


def _curve(
    series: Series, lines: Sequence[TrainLine | EvaluationLine], attribute: str, unit: int = 1
) -> Iterator[Curve]:
    """The curve of these lines by steps / unit, if there are lines."""
    if lines:
        x = [line.step / unit for line in lines]
        y = [getattr(line, attribute) for line in lines]
        yield Curve(series, x, y, points_marked=isinstance(lines[0], EvaluationLine))


@dataclass(frozen=True)
class RankTime:
    """A rank's time over the run: milliseconds that it computed in the median step, and the share
    of its steps' time that it waited."""

    place: Place
    computed_ms: float
    waited_share: float


@dataclass(frozen=True)
class Waits:
    """The times of the ranks that computed longest, in their order, and their curves."""

    ranks: list[RankTime]
    left_out: int
    series: list[Series]
    plots: list[Plot]


def waits_of(run: Run) -> Waits | None:
    """The waits of the newest start's ranks, in all lines of as many; None of a single process."""
    lines = [line for line in run.ranks if len(line.computed) == run.world_size]
    if not lines or run.world_size < 2:
        return None
    times = [_time_of(place, lines) for place in run.starts[-1].places]
    longest = nlargest(_MOST_RANKS, times, key=lambda time: time.computed_ms)
    longest.sort(key=lambda time: time.place.rank)
    shown = [time.place.rank for time in longest]
    series = [Series(number, f"rank {rank}") for number, rank in enumerate(shown)]
    steps = [line.step for line in lines]
    plots = []
    for attribute, title in (("computed", "Computed"), ("waited", "Waited for other ranks")):
        curves = [
            Curve(
                entry, steps, [1e3 * getattr(line, attribute)[rank] / line.steps for line in lines]
            )
            for rank, entry in zip(shown, series, strict=True)
        ]
        unit = "milliseconds a step"
        plots.append(Plot(title, unit, "optimizer step", curves, "linear", run.interruptions))
    return Waits(longest, len(times) - len(longest), series, plots)


def _time_of(place: Place, lines: Sequence[RanksLine]) -> RankTime:
    computed = [line.computed[place.rank] for line in lines]
    waited = sum(line.waited[place.rank] for line in lines)
    ms = [1e3 * seconds / line.steps for seconds, line in zip(computed, lines, strict=True)]
    total = sum(computed) + waited
    return RankTime(place, statistics.median(ms), waited / total if total else 0.0)
