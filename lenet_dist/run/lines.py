"""A run's files of lines, one JSON object each: metrics.jsonl, ranks.jsonl and starts.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lenet_dist.files import failures_named, write_atomically

Line = dict[str, Any]


class LinesFile:
    """Appends lines. The kernel has a line when `write` returns, the disk when `sync` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Line) -> None:
        """Append a line. Raises RunFailed naming the file if it can't be written."""
        with failures_named(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sync(self) -> None:
        """Wait until the disk has every line: a checkpoint must never be ahead of its metrics.

        Raises RunFailed naming the file if that fails.
        """
        if self.path.exists():
            with failures_named(self.path), open(self.path, "rb") as file:
                os.fsync(file.fileno())

    def read(self) -> list[Line]:
        """Every whole line; one that a kill cut short is left out."""
        lines: list[Line] = []
        if not self.path.exists():
            return lines
        for text in self.path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # Also of bytes that are no text.
                break
            if not (isinstance(line, dict) and "step" in line):
                break
            lines.append(line)
        return lines

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Remove all lines but the wanted ones."""
        content = "".join(json.dumps(line) + "\n" for line in self.read() if wanted(line))
        write_atomically(self.path, content.encode())


class Tail:
    """The lines of a metrics.jsonl that another process is writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes_read = 0
        self.lines: list[Line] = []
        """Every whole line, as of the last `read`."""

    def read(self) -> list[Line]:
        """Look for new lines. Gives all lines so far."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._bytes_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._bytes_read += len(whole + newline)
            self.lines += [json.loads(text) for text in whole.splitlines()]
        return self.lines
