"""Who waits for whom: the time that a run's ranks computed and waited."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lenet_dist.machine.place import Place
from lenet_dist.reporting.curves import Series
from lenet_dist.reporting.plots import COLOURS, Curve, Plot
from lenet_dist.run.reader import RanksLine, Run

_ROWS = 16

_OF_MANY: dict[str, Callable[[Sequence[float]], float]] = {
    "longest of all": max, "median of all": statistics.median, "shortest of all": min,
}  # fmt: skip
"""What is drawn of more ranks than there are colours."""


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
    places = run.starts[-1].places if run.starts else None
    if not lines or not places or len(places) == 1:
        return None
    times = [_time_of(place, lines) for place in places]
    shown = times
    if len(times) > _ROWS:
        shown = sorted(times, key=lambda time: time.computed_ms, reverse=True)[:_ROWS]
    few = len(places) <= COLOURS
    labels = [f"rank {place.rank}" for place in places] if few else list(_OF_MANY)
    series = [Series(number, label) for number, label in enumerate(labels)]
    plots = [
        Plot(
            name, title, "milliseconds a step", "optimizer step",
            _curves(lines, seconds, series, few), "linear", run.interruptions,
        )
        for name, title, seconds in (
            ("computed", "Computed", [line.computed for line in lines]),
            ("waited", "Waited for other ranks", [line.waited for line in lines]),
        )
    ]  # fmt: skip
    return Waits(shown, len(times) - len(shown), series, plots)


def _time_of(place: Place, lines: Sequence[RanksLine]) -> RankTime:
    computed = [line.computed[place.rank] for line in lines]
    waited = sum(line.waited[place.rank] for line in lines)
    of_step = [1e3 * seconds / line.steps for seconds, line in zip(computed, lines, strict=True)]
    total = sum(computed) + waited
    return RankTime(place, statistics.median(of_step), waited / total if total else 0.0)


def _curves(
    lines: Sequence[RanksLine], seconds: Sequence[list[float]], series: Sequence[Series], few: bool
) -> list[Curve]:
    of_step = [
        [1e3 * one / line.steps for one in of_line]
        for of_line, line in zip(seconds, lines, strict=True)
    ]
    drawn = of_step if few else [[pick(ranks) for pick in _OF_MANY.values()] for ranks in of_step]
    return [
        Curve(entry.label, [line.step for line in lines], list(values), entry.number)
        for entry, values in zip(series, zip(*drawn, strict=True), strict=True)
    ]
