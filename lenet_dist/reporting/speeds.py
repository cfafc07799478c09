"""The images per second of a benchmark's contenders, as a picture."""

from __future__ import annotations

import io
from typing import Any

_COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers can tell apart."""


def draw(report: dict[str, Any]) -> str:
    """An SVG with a panel per batch size and a bar per contender: its length is the median, its
    whisker the range of the rounds. Needs the group `speed`."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # Not as the user's matplotlibrc has it.
        matplotlib.rcParams["svg.hashsalt"] = "lenet_dist"
        return _draw(report)


def _draw(report: dict[str, Any]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    cases = {
        case: {name: entry for name, entry in entries.items() if "images_per_second" in entry}
        for case, entries in report["groups"]["speed"].items()
        if case != "any batch"
    }
    figure = Figure(figsize=(5, 1.9 * len(cases) + 0.6), layout="constrained")
    axes = figure.subplots(len(cases), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (case, entries) in zip(axes, cases.items(), strict=True):
        names = list(entries)
        spreads = [entries[name]["images_per_second"] for name in names]
        medians = [spread["median"] for spread in spreads]
        whiskers = [
            [spread["median"] - spread["min"] for spread in spreads],
            [spread["max"] - spread["median"] for spread in spreads],
        ]
        panel.barh(
            [name.replace("_", " ") for name in names], medians, xerr=whiskers,
            color=_COLOURS[: len(names)], ecolor="#333333", capsize=3,
        )  # fmt: skip
        panel.invert_yaxis()
        panel.set_title(case, loc="left", fontsize=11)
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("training images a second (median; whiskers: least and greatest)")
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()
