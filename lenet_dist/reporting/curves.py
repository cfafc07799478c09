"""Which curves a page shows: of one run by step, of several by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lenet_dist.reporting.plots import COLOURS, DASHES, Curve, Plot
from lenet_dist.run.reader import EvaluationLine, Run, TrainLine

TRAINING, VALIDATION = 0, 1
"""The series of one run's curves."""

Scale = Literal["linear", "log", "accuracy"]
_EVALUATED: list[tuple[str, str, str, Scale]] = [
    ("loss", "Loss", "loss, nats an image", "log"),
    ("accuracy", "Accuracy", "accuracy, %", "accuracy"),
]
_TRAINED: list[tuple[str, str, str, Scale]] = [
    ("lr", "Learning rate", "learning rate", "linear"),
    ("samples_per_second", "Throughput", "images a second", "linear"),
]
"""The lines' attribute, title, y's label, y's scale."""


@dataclass(frozen=True)
class Series:
    """An entry of the legend: how its curves are drawn, and what they are."""

    number: int
    label: str

    @property
    def colour(self) -> int:
        """Which of the page's series colours."""
        return self.number % COLOURS

    @property
    def dashes(self) -> str:
        """As SVG's stroke-dasharray."""
        return " ".join(map(str, DASHES[self.number % len(DASHES)]))


def of_run(run: Run) -> list[Plot]:
    """The plots of one run by optimizer step; none if it has no line yet."""
    plots = []
    for kind in _EVALUATED + _TRAINED:
        attribute, title, y_label, scale = kind
        curves = _curves("training", run.train, attribute, TRAINING)
        if kind in _EVALUATED:
            curves += _curves("validation", run.validation, attribute, VALIDATION)
        plots.append(
            Plot(attribute, title, y_label, "optimizer step", curves, scale, run.interruptions)
        )
    return [plot for plot in plots if plot.curves]


def of_runs(runs: Sequence[Run], labels: Sequence[str], series: Sequence[int]) -> list[Plot]:
    """The plots of several runs by epoch, each run under its label and in its series' style."""
    members = list(zip(runs, labels, series, strict=True))
    plots = []
    for part, kinds in (("training", _EVALUATED), ("validation", _EVALUATED), ("", _TRAINED)):
        for attribute, title, y_label, scale in kinds:
            curves = []
            for run, label, number in members:
                lines = run.validation if part == "validation" else run.train
                unit = run.plan.steps_per_epoch
                curves += _curves(label, lines, attribute, number, unit, run.interruptions)
            whole_title = f"{title}, {part}" if part else title
            name = f"{part or 'all'}-{attribute}"
            plots.append(Plot(name, whole_title, y_label, "epoch", curves, scale))
    return [plot for plot in plots if plot.curves]


def _curves(
    label: str,
    lines: Sequence[TrainLine | EvaluationLine],
    attribute: str,
    series: int,
    unit: int = 1,
    interruptions: Sequence[int] = (),
) -> list[Curve]:
    """The curve of these lines by steps / unit, or none if there are no lines."""
    if not lines:
        return []
    return [
        Curve(
            label=label,
            x=[line.step / unit for line in lines],
            y=[getattr(line, attribute) for line in lines],
            series=series,
            points_marked=isinstance(lines[0], EvaluationLine),
            interruptions=[step / unit for step in interruptions],
        )
    ]
