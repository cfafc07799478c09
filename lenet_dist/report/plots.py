"""Curves as pictures for a page: matplotlib's SVG, as it is, in a data URI."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

COLOURS = ("#0072b2", "#c95500", "#007a5a", "#a8327d", "#866800", "#44474d")
"""After Okabe and Ito, whose colours colour-blind readers can tell apart; dark enough for white."""
_DASHES = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (10, 3))
"""Lengths of dashes and gaps, one pattern per series; () is a solid line."""
_POINTS = 400
"""The most points a curve is drawn with; if it has more, neighbours are averaged."""
_SIZE = (5.0, 3.1)
"""Inches of 72 units: little wider than a phone, so that text keeps its size there."""

_INK, _GRID = "#1b1d21", "#d5d8dd"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "lenet_dist", "font.family": "sans-serif",
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": _GRID, "axes.labelcolor": _INK, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": _GRID, "grid.linewidth": 0.6, "xtick.color": _GRID, "ytick.color": _GRID,
    "xtick.labelcolor": _INK, "ytick.labelcolor": _INK,
}  # fmt: skip
_TICKS = {
    "log": [m * 10.0**power for power in range(-12, 7) for m in (1, 2, 5)],
    "logit": [0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999],
}
"""Round numbers on axes that are not linear."""

Scale = Literal["linear", "log", "logit"]
"""The y axis, as matplotlib names it. `logit` is for accuracies: it spreads those near 1."""


@dataclass(frozen=True)
class Series:
    """An entry of a legend: what its curves are, and how they are drawn."""

    number: int
    label: str

    @property
    def colour(self) -> str:
        """The series' colour."""
        return COLOURS[self.number % len(COLOURS)]

    @property
    def dashes(self) -> tuple[float, ...]:
        """The series' dashes, as SVG's stroke-dasharray."""
        return _DASHES[self.number % len(_DASHES)]


@dataclass(frozen=True)
class Curve:
    """One line: its series, its points, and whether the points are marked."""

    series: Series
    x: Sequence[float]
    y: Sequence[float]
    points_marked: bool = False


@dataclass(frozen=True)
class Plot:
    """Curves over common axes; `y_label` and `x_label` say the units."""

    title: str
    y_label: str
    x_label: str
    curves: list[Curve]
    scale: Scale = "linear"
    interruptions: Sequence[float] = ()
    """Where, on x, the run was interrupted: drawn as vertical lines."""

    @property
    def description(self) -> str:
        """What a reader who can't see the plot should know."""
        number = "{:.2%}" if self.scale == "logit" else "{:,.4g}"
        texts = [f"{self.title}: {self.y_label}, by {self.x_label}."]
        for curve in self.curves:
            first, last = number.format(curve.y[0]), number.format(curve.y[-1])
            texts.append(f"{curve.series.label}: {first} at first, {last} in the end.")
        if self.interruptions:
            places = ", ".join(f"{place:,.6g}" for place in self.interruptions)
            texts.append(f"Interrupted at {places}.")
        return " ".join(texts)

    @property
    def uri(self) -> str:
        """The plot as an SVG in a data URI; the same bytes for the same plot."""
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # Not as the user's matplotlibrc has it.
            matplotlib.rcParams.update(_STYLE)
            figure = Figure(figsize=_SIZE, layout="constrained")
            self._draw(figure.add_subplot())
            content = io.BytesIO()
            no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(figure).print_svg(content, metadata=no_metadata)
        return "data:image/svg+xml;base64," + base64.b64encode(content.getvalue()).decode()

    def _draw(self, axes: Axes) -> None:
        for step in self.interruptions:
            axes.axvline(step, color=_INK, linewidth=0.8, dashes=(2, 3), zorder=1.5)
        for curve in self.curves:
            x, y = _thinned(curve.x), _thinned(curve.y)
            if self.scale == "logit":  # All right is drawn at 99.99 %.
                y = np.clip(y, 1e-4, 1 - 1e-4).tolist()
            axes.plot(
                x, y, color=curve.series.colour, linewidth=1.3,
                dashes=curve.series.dashes or (None, None),
                marker="o" if curve.points_marked or len(x) == 1 else "", markersize=3,
            )  # fmt: skip
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=axes.get_xlim()[1] > 6))
        axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.set_yscale(self.scale)
        axes.yaxis.set_major_formatter("{x:,.6g}")
        if self.scale == "linear":
            axes.set_ylim(bottom=0)
            return
        low, high = axes.get_ylim()
        ticks = [tick for tick in _TICKS[self.scale] if low <= tick <= high]
        axes.yaxis.set_major_locator(FixedLocator(ticks) if len(ticks) > 2 else MaxNLocator(5))
        axes.yaxis.set_minor_locator(NullLocator())
        if self.scale == "logit":
            axes.yaxis.set_major_formatter(lambda accuracy, _: f"{100 * accuracy:.4g}")


def _thinned(values: Sequence[float]) -> list[float]:
    """At most _POINTS values: the means of equally large groups of neighbours."""
    groups = np.array_split(np.asarray(values, float), min(len(values), _POINTS))
    return [float(group.mean()) for group in groups]
