"""What a tracker is given, and what it must be able to do."""

from __future__ import annotations

from typing import Any, Protocol

from lenet_dist.run_dir.lines import Line
from lenet_dist.track.ending import Ending


class Tracker(Protocol):
    """Where a run's lines go."""

    lines: int
    """How many of the run's lines it has, from the first on."""
    is_up_to_date: bool
    """Whether all has arrived where it was to go, once `finish` has returned."""

    def log(self, line: Line) -> None:
        """Take the next line. May raise anything."""

    def recover(self, error: Exception) -> None:
        """Begin again after an error. Raises it, or another one, if that does not help."""

    def finish(self, ending: Ending, result: dict[str, Any] | None) -> None:
        """Report how the run ended, and deliver what is still on its way."""


def in_words(error: Exception) -> str:
    """An error on one line: its type, and the beginning of its text."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
