"""Files of lines, one JSON object each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lenet_dist.exits import RequestError
from lenet_dist.files import failures_named, sync, write_atomically

Line = dict[str, Any]


class LinesFile:
    """A file of lines that grows: the kernel has a line when `write` returns, the disk after
    `sync`."""

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
                sync(file.fileno())

    def read(self) -> list[Line]:
        """Every line, but for a last one that a kill cut short; none if there is no file.

        Raises RequestError naming the file and the line if another one is damaged.
        """
        try:
            *whole, last = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        except OSError as error:
            raise RequestError(f"{self.path}: {error.strerror}") from None
        # A write that was cut short may lack no more than its newline.
        return _parsed(self.path, [*whole, last] if _line(last) else whole)

    def keep(self, is_kept: Callable[[Line], bool]) -> None:
        """Remove all other lines, and what a kill has cut short."""
        self.replace([line for line in self.read() if is_kept(line)])

    def replace(self, lines: list[Line]) -> None:
        """Put these lines in place of all."""
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _parsed(path: Path, texts: list[bytes], first: int = 1) -> list[Line]:
    """Lines that were written whole. `first`: the first one's number in the file."""
    lines = []
    for number, text in enumerate(texts, start=first):
        line = _line(text)
        if line is None:
            raise RequestError(
                f"{path}, line {number}: damaged; it and what follows it were left as they are:"
                " restore the file, or remove that line"
            )
        lines.append(line)
    return lines


def _line(text: bytes) -> Line | None:
    """A line's object; None if it is damaged."""
    try:
        line = json.loads(text)
    except ValueError:  # Also of bytes that are no text.
        return None
    return line if isinstance(line, dict) and "step" in line else None


class Tail:
    """The lines of a file that another process is writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes_read = 0
        self.lines: list[Line] = []
        """Every whole line, as of the last `read`."""

    def read(self) -> list[Line]:
        """Look for new lines. Gives all lines so far.

        Raises RequestError naming the file and the line if one is damaged.
        """
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._bytes_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._bytes_read += len(whole + newline)
            texts = whole.split(b"\n") if newline else []
            self.lines += _parsed(self._path, texts, first=1 + len(self.lines))
        return self.lines
