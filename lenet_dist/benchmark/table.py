"""A benchmark's report as a table in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

_FORMS = {"images_per_second": "{:,.0f} images/s", "seconds": "{:.1f} s"}
_FORMS["evaluated_per_second"] = _FORMS["images_per_second"]


def in_markdown(report: dict[str, Any]) -> str:
    """A row for each ratio, then the accuracies that were reached, then the conditions."""
    head = ["ratio", "median", "range", "first", "second"]
    rows = [_row(ratio, report["figures"]) for ratio in report["ratios"]]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    reached = [
        f"{name}: test accuracy {min(figures['accuracy'] for figures in rounds):.2%} or more"
        for name, rounds in report["figures"].items()
        if "accuracy" in rounds[0]
    ]
    return "\n\n".join(filter(None, [table, "; ".join(reached), _conditions(report)]))


def _row(ratio: dict[str, Any], figures: dict[str, list[dict[str, float]]]) -> list[str]:
    name = ratio["figure"]
    over, under = (
        [figures_of[name] for figures_of in figures[ratio[side]]] for side in ("over", "under")
    )
    rounds = [a / b for a, b in zip(over, under, strict=True)]
    medians = (_FORMS[name].format(statistics.median(values)) for values in (over, under))
    spread = f"{min(rounds):.2f} to {max(rounds):.2f}"
    return [ratio["title"], f"{statistics.median(rounds):.2f}", spread, *medians]


def _conditions(report: dict[str, Any]) -> str:
    versions = report["versions"]
    packages = ("torch", "torchvision", "accelerate", "python")
    software = ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)
    return (
        f"`{report['command']}`: medians and ranges of n = {report['rounds']} rounds, taken in"
        f" turn. {report['hardware']}; {software}."
    )
