"""Curves as SVG for use inside a page: they take its fonts and its colours, light or dark.

matplotlib draws with a stand-in colour per role; in the SVG these become the page's CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

DASHES = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (10, 3))
"""Lengths of dashes and gaps, one pattern per series; () is a solid line."""
COLOURS = 6
"""How many series colours the page's style has."""
POINTS = 400
"""The most points a curve is drawn with; if it has more, neighbours are averaged."""

_SIZE = (5.0, 3.1)
"""Inches of 72 units: little wider than a phone, so that text keeps its size there."""
_INK, _GRID = "#0a0001", "#0a0002"
_SERIES = tuple(f"#0b000{number}" for number in range(COLOURS))
_ROLES = {_INK: "ink", _GRID: "grid"} | {
    colour: f"series-{number}" for number, colour in enumerate(_SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lenet_dist",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
_ACCURACIES = (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999)


@dataclass(frozen=True)
class Curve:
    """One line: its points, which series' colour and dashes it has, whether points are marked."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    series: int
    points_marked: bool = False
    interruptions: Sequence[float] = ()
    """Where, on x, its run was interrupted."""


@dataclass(frozen=True)
class Plot:
    """Curves over common axes; `y_label` and `x_label` say the units."""

    name: str
    """A word, unique in the page."""
    title: str
    y_label: str
    x_label: str
    curves: list[Curve]
    scale: Literal["linear", "log", "accuracy"] = "linear"
    interruptions: Sequence[float] = field(default=())
    """Where, on x, all curves were interrupted: drawn as vertical lines."""

    @property
    def description(self) -> str:
        """What a reader who can't see the plot should know."""
        texts = [f"{self.title}: {self.y_label}, by {self.x_label}."]
        for curve in self.curves:
            first, last = (_number(curve.y[place], self.scale) for place in (0, -1))
            texts.append(f"{curve.label}: {first} at first, {last} in the end.")
        if self.interruptions:
            places = ", ".join(f"{place:,.6g}" for place in self.interruptions)
            texts.append(f"Interrupted at {places}.")
        return " ".join(texts)


def draw(plot: Plot) -> Markup:
    """The plot as an <svg> element with its description."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # Not as the user's matplotlibrc has it.
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        _draw(plot, axes)
        content = io.StringIO()
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    return _for_page(content.getvalue(), plot)


def _draw(plot: Plot, axes: Axes) -> None:
    for step in plot.interruptions:
        axes.axvline(step, color=_INK, linewidth=0.8, dashes=(2, 3), zorder=1.5)
    for curve in plot.curves:
        x, y = thin(curve.x), thin(curve.y)
        if plot.scale == "accuracy":
            y = [_shown_error(accuracy) for accuracy in y]
        colour, dashes = _SERIES[curve.series % COLOURS], DASHES[curve.series % len(DASHES)]
        axes.plot(
            x, y, color=colour, linewidth=1.3, dashes=dashes or (None, None),
            marker="o" if curve.points_marked or len(x) == 1 else "", markersize=3,
        )  # fmt: skip
        if curve.interruptions:
            at = [
                min(range(len(x)), key=lambda i: abs(x[i] - place)) for place in curve.interruptions
            ]
            axes.plot(
                [x[i] for i in at], [y[i] for i in at], color=_INK, marker="x", linestyle="",
                markersize=5, zorder=3,
            )  # fmt: skip
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=axes.get_xlim()[1] > 6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    if plot.scale == "linear":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    else:
        axes.set_yscale("log")
        _label_few(axes, plot.scale)


def _label_few(axes: Axes, scale: str) -> None:
    """Ticks at round numbers only, as many as fit."""
    low, high = axes.get_ylim()
    if scale == "accuracy":
        candidates = [1 - accuracy for accuracy in _ACCURACIES]
        text = FuncFormatter(lambda error, _: f"{100 * (1 - error):.4g}")
        axes.invert_yaxis()
    else:
        candidates = [m * 10.0**power for power in range(-12, 7) for m in (1, 2, 5)]
        text = FuncFormatter(lambda value, _: f"{value:g}")
    within = [tick for tick in candidates if low <= tick <= high]
    axes.yaxis.set_major_locator(FixedLocator(within) if len(within) > 2 else MaxNLocator(5))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(text)


def thin(values: Sequence[float]) -> list[float]:
    """At most POINTS values: the means of equally large groups of neighbours."""
    size = -(-len(values) // POINTS)
    parts = [values[first : first + size] for first in range(0, len(values), size or 1)]
    return [sum(part) / len(part) for part in parts]


def _shown_error(accuracy: float) -> float:
    """A logarithmic axis has no place for an error of 0: it is drawn at 99.99 %."""
    return max(1 - accuracy, 1e-4)


def _number(value: float, scale: str) -> str:
    return f"{value:.2%}" if scale == "accuracy" else f"{value:,.4g}"


def _shorter(tag: str) -> str:
    """The tag with numbers rounded to hundredths, and the page's colours."""
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)
    tag = re.sub(r"#0[ab]000\d", lambda colour: f"var(--{_ROLES[colour[0]]})", tag)
    return re.sub(r"\s+", " ", tag)


def _for_page(svg: str, plot: Plot) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.S)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box, "matplotlib always gives one"
    content = svg[svg.index(">") + 1 :].replace("xlink:href", "href")
    # An id is of use only if something refers to it, and must differ from other plots' ids.
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', content))
    content = re.sub(
        r' id="([^"]+)"',
        lambda found: f' id="{plot.name}-{found[1]}"' if found[1] in used else "",
        content,
    )
    content = re.sub(r'(url\(#|href="#)', rf"\g<1>{plot.name}-", content)
    content = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", content)
    content = re.sub(r"<[^>]+>", lambda tag: _shorter(tag[0]), content)
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(plot.description)}">'
    return Markup(opening + content)
