"""How a start of a run ended, as the training process tells it to the trackers' process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

SECONDS_AT_THE_END = 27.0
"""Longest that trackers may take once a run is complete."""

SECONDS_AT_A_STOP = 9.0
"""Longest that trackers may take if a run was stopped or failed, and has little time left."""


@dataclass(frozen=True)
class Ending:
    """How a start ended: `completed`, `stopped`, `failed`, `lost` if it ended without a word, or
    `incomplete` if nobody saw it end."""

    kind: str
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Longest that trackers may take after it."""
        return SECONDS_AT_THE_END if self.kind == "completed" else SECONDS_AT_A_STOP

    def as_line(self) -> str:
        """The ending on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Ending:
        """The ending that `as_line` has written."""
        return cls(**json.loads(line))
