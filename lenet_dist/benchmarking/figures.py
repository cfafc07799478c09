"""What was measured: figures by name, each with its rounds, for each contender in each case."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Entry = dict[str, Any]
"""A contender in a case: spreads by name, and `threads`, `device`, `command`; or, instead of all
that, `not_measured`: why not."""

Groups = Mapping[str, Mapping[str, Mapping[str, Entry]]]
"""Entries by group, case and contender."""

FigureName = tuple[str, str, str, str]
"""A figure's group, case, contender and name."""


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest, and the values of the rounds."""
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "rounds": list(values)}


def spreads(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of figures by name, which each round has: their spreads by name."""
    return {name: spread([figures[name] for figures in rounds]) for name in rounds[0]}


def entry_at(groups: Groups, figure: FigureName) -> Entry | None:
    """The entry that a figure belongs to, if it was measured."""
    group, case, contender, _ = figure
    entry = groups.get(group, {}).get(case, {}).get(contender)
    return None if entry is None or "not_measured" in entry else entry


def label(name: str) -> str:
    """A group's or contender's name, as people read it."""
    return name.replace("_", " ")
