"""W&B's files in a run directory: a segment for each start, and the lines that they hold."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple


class Segment(NamedTuple):
    """The folder of one start: ``[offline-]run-DATE_TIME-ID``."""

    folder: Path

    @property
    def is_online(self) -> bool:
        """Whether it was on its way to the server as it was written."""
        return not self.folder.name.startswith("offline-")

    @property
    def is_synced(self) -> bool:
        """Whether `wandb sync` would leave it alone."""
        return self._marker.exists()

    def mark_synced(self) -> None:
        """Have `wandb sync` leave it alone: the server has its lines, or will have them from us."""
        self._marker.touch()

    def steps(self, core: str) -> list[int]:
        """W&B's own step numbers of the lines in it, as W&B's own reader finds them.

        `core`: W&B's program; `wandb leet` is the same behind half a second of Python.
        """
        read = subprocess.run(
            [core, "leet", "inspect", "--no-observability", "--json", "--run-file", self._file],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        # A segment whose writer was killed ends in the middle of a record, or before the first.
        records = [json.loads(text) for text in read.stdout.splitlines() if text.startswith("{")]
        return [r["history"]["item"]["_step"] for r in records if r["type"] == "history"]

    @property
    def _file(self) -> Path:
        return self.folder / f"run-{self.folder.name.rsplit('-', 1)[1]}.wandb"

    @property
    def _marker(self) -> Path:
        return self._file.with_suffix(".wandb.synced")


def segments(run: Path, wandb_id: str) -> list[Segment]:
    """The run's segments, oldest first."""
    name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(wandb_id)}")
    folders = [folder for folder in (run / "wandb").glob("*") if name.fullmatch(folder.name)]
    return [Segment(f) for f in sorted(folders, key=lambda f: f.name.removeprefix("offline-"))]


def lines_in(parts: list[Segment], core: str) -> int:
    """How many lines of metrics.jsonl, from the first on, the segments hold together.

    An online segment's steps count from the run's first line, whatever came before it; an offline
    one's count from its own.
    """
    lines = 0
    for part in parts:
        steps = part.steps(core)
        if part.is_online:
            lines = steps[-1] + 1 if steps else lines
        else:
            lines += len(steps)
    return lines
