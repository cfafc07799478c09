"""W&B's files in a run directory: a segment for each start, and the lines that they hold."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple


class Content(NamedTuple):
    """What W&B's own reader finds in a segment."""

    steps: list[int]
    """W&B's own numbers for its lines."""
    is_whole: bool
    """Whether it was written to its end: `wandb sync` stops at one that was not."""


class Segment(NamedTuple):
    """The folder of one start: ``[offline-]run-DATE_TIME-ID``, and a number if another start began
    in the same second."""

    folder: Path

    @property
    def is_online(self) -> bool:
        """Whether it was sent to the server as it was written."""
        return not self.folder.name.startswith("offline-")

    @property
    def is_hidden(self) -> bool:
        """Whether `wandb sync` skips it, as it does with one that it has uploaded."""
        return self._marker.exists()

    def hide(self) -> None:
        """Make `wandb sync` skip it."""
        self._marker.touch()

    def read(self, core: str) -> Content:
        """Its content. `core`: W&B's program; `wandb leet` runs it after half a second of Python.

        If its writer was killed, this is what comes before the last, broken record.
        """
        read = subprocess.run(
            [core, "leet", "inspect", "--no-observability", "--json", "--run-file", self._file],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        records = [json.loads(text) for text in read.stdout.splitlines() if text.startswith("{")]
        steps = [r["history"]["item"]["_step"] for r in records if r["type"] == "history"]
        return Content(steps, bool(records) and records[-1]["type"] == "exit")

    @property
    def _file(self) -> Path:
        return next(self.folder.glob("run-*.wandb"), self.folder / "run.wandb")

    @property
    def _marker(self) -> Path:
        return self._file.with_suffix(".wandb.synced")


def segments(run: Path, wandb_id: str) -> list[Segment]:
    """The run's segments, oldest first."""
    name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(wandb_id)}(-.+)?")
    folders = [folder for folder in (run / "wandb").glob("*") if name.fullmatch(folder.name)]
    return [Segment(f) for f in sorted(folders, key=lambda f: f.name.removeprefix("offline-"))]


def lines_in(parts: list[Segment], core: str) -> int:
    """How many lines of metrics.jsonl, from the first on, the segments hold together.

    The steps of an online segment count from the run's first line, those of an offline one from its
    own first line. Offline segments that are not whole are hidden and not counted: their lines can
    be sent again, and a broken segment would keep the others from being synced.
    """
    lines = 0
    for part in parts:
        content = part.read(core)
        if part.is_online:
            lines = content.steps[-1] + 1 if content.steps else lines
        elif content.is_whole:
            lines += len(content.steps)
        else:
            part.hide()
    return lines
