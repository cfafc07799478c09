"""Seconds spent on each part of a run, over all its starts."""

from __future__ import annotations

import time

PARTS = ("setup", "train", "evaluate")


class Clock:
    """Counts wall-clock seconds into one part at a time."""

    def __init__(self, started: float) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part = "setup"
        self._since = started

    def switch(self, part: str) -> str:
        """Count into `part` from now on. Gives the part that was counted into before."""
        assert part in PARTS
        now = time.monotonic()
        self.seconds[self._part] += now - self._since
        previous, self._part, self._since = self._part, part, now
        return previous

    def read(self) -> dict[str, float]:
        """The seconds of each part up to now, and their total."""
        self.switch(self._part)
        return {**self.seconds, "total": sum(self.seconds.values())}

    def add(self, earlier: dict[str, float]) -> None:
        """Add the seconds that earlier starts of the run have spent."""
        for part in PARTS:
            self.seconds[part] += earlier[part]
