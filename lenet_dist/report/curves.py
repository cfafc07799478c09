"""Which curves a page shows: of one run by step, of several by epoch, of a run's ranks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lenet_dist.report.plots import COLOURS, Curve, Plot, Scale, Series
from lenet_dist.run_dir.reader import EvaluationLine, RanksLine, Run, TrainLine
from lenet_dist.system import Place

TRAINING, VALIDATION = Series(0, "training"), Series(1, "validation")
"""The series of one run's curves."""

_EVALUATED: list[tuple[str, str, str, Scale]] = [
    ("loss", "Loss", "loss, cross-entropy", "log"),
    ("accuracy", "Accuracy", "accuracy, %", "accuracy"),
]
_TRAINED: list[tuple[str, str, str, Scale]] = [
    ("lr", "Learning rate", "learning rate", "linear"),
    ("samples_per_second", "Throughput", "images a second", "linear"),
]
"""The lines' attribute, title, y's label, y's scale."""

_ROWS = 16
_OF_MANY: dict[str, Callable[[Sequence[float]], float]] = {
    "longest of all": max, "median of all": statistics.median, "shortest of all": min,
}  # fmt: skip
"""What is drawn of more ranks than there are colours."""


def of_run(run: Run) -> list[Plot]:
    """The plots of one run by optimizer step; none if it has no line yet."""
    plots = []
    for kind in _EVALUATED + _TRAINED:
        attribute, title, y_label, scale = kind
        curves = _curves(TRAINING, run.train, attribute)
        if kind in _EVALUATED:
            curves += _curves(VALIDATION, run.validation, attribute)
        plots.append(Plot(title, y_label, "optimizer step", curves, scale, run.interruptions))
    return [plot for plot in plots if plot.curves]


def of_runs(runs: Sequence[Run], series: Sequence[Series]) -> list[Plot]:
    """The plots of several runs by epoch, each run in its series' style and under its label."""
    plots = []
    for part, kinds in (("training", _EVALUATED), ("validation", _EVALUATED), ("", _TRAINED)):
        for attribute, title, y_label, scale in kinds:
            curves = []
            for run, entry in zip(runs, series, strict=True):
                lines = run.validation if part == "validation" else run.train
                unit = run.plan.steps_per_epoch
                curves += _curves(entry, lines, attribute, unit, run.interruptions)
            whole_title = f"{title}, {part}" if part else title
            plots.append(Plot(whole_title, y_label, "epoch", curves, scale))
    return [plot for plot in plots if plot.curves]


def _curves(
    series: Series,
    lines: Sequence[TrainLine | EvaluationLine],
    attribute: str,
    unit: int = 1,
    interruptions: Sequence[int] = (),
) -> list[Curve]:
    """The curve of these lines by steps / unit, or none if there are no lines."""
    if not lines:
        return []
    return [
        Curve(
            label=series.label,
            x=[line.step / unit for line in lines],
            y=[getattr(line, attribute) for line in lines],
            series=series.number,
            points_marked=isinstance(lines[0], EvaluationLine),
            interruptions=[step / unit for step in interruptions],
        )
    ]


@dataclass(frozen=True)
class RankTime:
    """A rank's time over the run: milliseconds that it computed in the median step, and the share
    of its steps' time that it waited."""

    place: Place
    computed_ms: float
    waited_share: float


@dataclass(frozen=True)
class Waits:
    """The ranks' times, the longest computing first if there are too many to show all."""

    ranks: list[RankTime]
    left_out: int
    series: list[Series]
    plots: list[Plot]


def waits_of(run: Run) -> Waits | None:
    """The waits of the newest start's ranks, in all lines of as many; None of a single process."""
    lines = [line for line in run.ranks if len(line.computed) == run.world_size]
    places = run.starts[-1].places if run.starts else []
    if not lines or len(places) < 2:
        return None
    times = [_time_of(place, lines) for place in places]
    shown = times
    if len(times) > _ROWS:
        shown = sorted(times, key=lambda time: time.computed_ms, reverse=True)[:_ROWS]
    few = len(places) <= len(COLOURS)
    labels = [f"rank {place.rank}" for place in places] if few else list(_OF_MANY)
    series = [Series(number, label) for number, label in enumerate(labels)]

    def plot(title: str, seconds: list[list[float]]) -> Plot:
        of_step = [
            [1e3 * one / line.steps for one in of_ranks]
            for of_ranks, line in zip(seconds, lines, strict=True)
        ]
        if not few:
            of_step = [[pick(of_ranks) for pick in _OF_MANY.values()] for of_ranks in of_step]
        steps = [line.step for line in lines]
        curves = [
            Curve(entry.label, steps, values, entry.number)
            for entry, values in zip(series, zip(*of_step, strict=True), strict=True)
        ]
        unit = "milliseconds a step"
        return Plot(title, unit, "optimizer step", curves, "linear", run.interruptions)

    plots = [
        plot("Computed", [line.computed for line in lines]),
        plot("Waited for other ranks", [line.waited for line in lines]),
    ]
    return Waits(shown, len(times) - len(shown), series, plots)


def _time_of(place: Place, lines: Sequence[RanksLine]) -> RankTime:
    computed = [line.computed[place.rank] for line in lines]
    waited = sum(line.waited[place.rank] for line in lines)
    of_step = [1e3 * seconds / line.steps for seconds, line in zip(computed, lines, strict=True)]
    total = sum(computed) + waited
    return RankTime(place, statistics.median(of_step), waited / total if total else 0.0)
