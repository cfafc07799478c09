"""What a tracker is given and must be able to do."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lenet_dist.run_dir.lines import Line


@dataclass(frozen=True)
class Ending:
    """How a start ended: `completed`, `stopped`, `failed`, `lost` if it ended without a message, or
    `incomplete` if nobody saw it end."""

    kind: str
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Longest that trackers may take after it: after a stop, little time is left."""
        return 27.0 if self.kind == "completed" else 9.0

    def as_line(self) -> str:
        """The ending as one line of JSON, for a pipe."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Ending:
        """The ending that `as_line` has written."""
        return cls(**json.loads(line))


class Tracker(Protocol):
    """Where a run's lines go."""

    lines: int
    """How many of the run's lines it has, from the first on."""
    is_up_to_date: bool
    """Whether everything has arrived, once `finish` has returned."""

    def log(self, line: Line) -> None:
        """Take the next line, or begin again at an earlier one. May raise anything."""

    def finish(self, ending: Ending, result: dict[str, Any] | None) -> None:
        """Report how the run ended, and deliver what is still on its way."""


def rank_metrics(line: Line) -> dict[str, float]:
    """What trackers get of a train line's ranks: milliseconds a step, and the slowest rank.

    `line["ranks"]`: the line of ranks.jsonl for the same step, or None. Nothing of one process.
    """
    ranks = line["ranks"]
    if line["kind"] != "train" or ranks is None or len(ranks["computed"]) == 1:
        return {}
    computed, waited = ranks["computed"], ranks["waited"]
    per_step = 1e3 / ranks["steps"]
    return {
        "ranks/slowest": computed.index(max(computed)),
        "ranks/computed_ms/slowest": max(computed) * per_step,
        "ranks/computed_ms/median": statistics.median(computed) * per_step,
        "ranks/waited_ms/median": statistics.median(waited) * per_step,
    }


def one_line(error: Exception) -> str:
    """An error on one line: its type, and the start of its text."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
