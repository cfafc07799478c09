"""Which lines of a run W&B has for certain: on its server, or in files for `wandb sync`."""

from __future__ import annotations

import json
from pathlib import Path

from lenet_dist.files import write_atomically


class Kept:
    """Counts the lines that W&B's server has, or that whole offline segments in RUN/wandb hold.

    A segment is the folder of one start. `wandb sync` sends a segment from its first row and stops
    at one whose writer was killed; so those that it must not send are moved to RUN/wandb/earlier.
    """

    def __init__(self, run: Path, wandb_id: str) -> None:
        self._folder = run / "wandb"
        self._file = self._folder / "kept.json"
        self._id = wandb_id
        self.lines: int | None = 0
        """From the first on; None: only the server knows."""
        self._segments: list[str] = []
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            if kept["id"] == wandb_id:
                self.lines, self._segments = kept["lines"], kept["segments"]

    def begin(self) -> None:
        """Prepare for a new segment: put away what `wandb sync` must not send."""
        self._folder.mkdir(exist_ok=True)
        self._put_away_all_but(self._segments)

    def go_online(self, segment: Path) -> None:
        """Note that a new segment is sent as it is written: only the server can count now."""
        self._write(None, [])
        self._put_away_all_but([segment.name])

    def confirm(self, lines: int) -> None:
        """Note that the server has so many lines."""
        self._write(lines, [])

    def add(self, segment: Path, lines: int) -> bool:
        """Note a new whole segment that reaches up to so many lines; give whether it can be sent.

        It can't if only the server knows which lines come before it.
        """
        if self.lines is None:
            self._put_away(segment)
            return False
        self._write(lines, [*self._segments, segment.name])
        return True

    def _put_away_all_but(self, names: list[str]) -> None:
        for folder in self._folder.glob("*run-*-*"):
            if not folder.is_symlink() and folder.name not in names:
                self._put_away(folder)

    def _put_away(self, folder: Path) -> None:
        earlier = self._folder / "earlier"
        earlier.mkdir(exist_ok=True)
        # Numbered, because W&B names folders by the second.
        folder.rename(earlier / f"{len(list(earlier.iterdir()))}-{folder.name}")

    def _write(self, lines: int | None, segments: list[str]) -> None:
        self.lines, self._segments = lines, segments
        kept = {"id": self._id, "lines": lines, "segments": segments}
        write_atomically(self._file, json.dumps(kept).encode())
