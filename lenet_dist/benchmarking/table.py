"""A benchmark's report as text: for the terminal, and for a page in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lenet_dist.benchmarking.figures import Entry, Groups, label

_COLUMNS = {
    "images_per_second": ("images/s", "{:,.0f}"),
    "first_step_seconds": ("s to first step", "{:.2f}"),
    "train_seconds": ("s training", "{:.1f}"),
    "total_seconds": ("s start to exit", "{:.1f}"),
    "accuracy": ("test accuracy", "{:.2%}"),
    "peak_mib": ("peak MiB", "{:,.0f}"),
}
"""Figures by name: their heading, with the unit, and their format."""

Row = list[str]


def for_terminal(report: dict[str, Any]) -> str:
    """Every group's figures, then every target beside its measured ratio, then the conditions."""
    tables = (*groups(report["groups"]), _targets(report))
    blocks = [_aligned(title, [head, *rows]) for title, head, rows in tables]
    return "\n\n".join([*blocks, conditions(report)])


def for_page(report: dict[str, Any]) -> str:
    """The same in Markdown, the targets first."""
    blocks = [
        f"### {title[0].upper()}{title[1:]}\n\n{in_markdown(head, rows)}"
        for title, head, rows in (_targets(report), *groups(report["groups"]))
    ]
    made_by = f"Made by `{report['command']}`.\n{conditions(report)}"
    return "\n\n".join([made_by, *blocks])


def in_markdown(head: Row, rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(report: dict[str, Any]) -> str:
    """The conditions of the measurement: n, hardware, versions."""
    hardware, versions = report["hardware"], report["versions"]
    gpu = f", {hardware['gpus']} x {hardware['gpu']}" if hardware["gpus"] else ""
    packages = ("torch", "torchvision", "accelerate", "lightning", "python")
    software = ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)
    return (
        f"Medians of n = {report['rounds']} rounds (time to accuracy: at most 2), taken in turn,"
        f" least and greatest in brackets. {hardware['cpu']}, {hardware['cores']} cores{gpu};"
        f" {software}."
    )


def _targets(report: dict[str, Any]) -> tuple[str, Row, list[Row]]:
    rows = []
    for target in report["targets"]:
        ratio, spread = "", ""
        if target["ratio"] is not None:
            ratio = f"{target['ratio']:.2f}"
            spread = f"{target['min']:.2f} to {target['max']:.2f}"
        verdict = "; ".join(filter(None, [target["verdict"], target["note"]]))
        rows.append([target["name"], target["bound"], ratio, spread, verdict])
    return "targets", ["ratio", "target", "measured", "rounds", ""], rows


def groups(measured: Groups) -> list[tuple[str, Row, list[Row]]]:
    """Title, heading and rows of each group that was measured."""
    tables = []
    for group, cases in measured.items():
        entries = [entry for case in cases.values() for entry in case.values()]
        names = [name for name in _COLUMNS if any(name in entry for entry in entries)]
        head = ["", "", *(_COLUMNS[name][0] for name in names)]
        rows = [
            [case, label(contender), *_cells(entry, names)]
            for case, contenders in cases.items()
            for contender, entry in contenders.items()
        ]
        tables.append((label(group), head, rows))
    return tables


def _cells(entry: Entry, names: Sequence[str]) -> list[str]:
    if "not_measured" in entry:
        return [f"not measured: {entry['not_measured']}", *[""] * (len(names) - 1)]
    cells = []
    for name in names:
        if name not in entry:
            cells.append("")
            continue
        form, figure = _COLUMNS[name][1], entry[name]
        median, least, greatest = (form.format(figure[key]) for key in ("median", "min", "max"))
        cells.append(f"{median} ({least} to {greatest})")
    return cells


def _aligned(title: str, rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([title, *(f"  {line}" for line in lines)])
