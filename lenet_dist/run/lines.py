"""A run's files of lines, one JSON object each: metrics.jsonl, ranks.jsonl and starts.jsonl."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lenet_dist.exits import RequestError
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
        """Every line, without one at the end that a kill cut short.

        Raises RequestError naming the file and the line if another is damaged.
        """
        return [line for line, _ in located(self.path)]

    def keep(self, wanted: Callable[[Line], bool]) -> None:
        """Remove all lines but the wanted ones."""
        content = "".join(json.dumps(line) + "\n" for line in self.read() if wanted(line))
        write_atomically(self.path, content.encode())


class Tail:
    """The lines of a file that another process is writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes_read = 0
        self._lines: list[Line] = []

    def read(self) -> list[Line]:
        """Look for new lines. Gives all lines so far."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._bytes_read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._bytes_read += len(whole + newline)
            new = _parsed(whole + newline, self._path, len(self._lines))
            self._lines += [line for line, _ in new]
        return self._lines


def located(path: Path) -> list[tuple[Line, str]]:
    """Each line of a file, and where it is; none if there is no file.

    A line at the end that a kill cut short is left out. Raises RequestError saying where another
    is damaged.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error}") from None
    return _parsed(content, path)


def _parsed(content: bytes, path: Path, before: int = 0) -> list[tuple[Line, str]]:
    whole = content.split(b"\n")[:-1]
    places = [f"{path}, line {number}" for number in range(before + 1, before + len(whole) + 1)]
    return [(_line(text, place), place) for text, place in zip(whole, places, strict=True)]


def _line(text: bytes, where: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError as error:  # Also of bytes that are no text.
        raise RequestError(f"{where}: damaged: not JSON: {error}") from None
    if not isinstance(line, dict):
        raise RequestError(f"{where}: damaged: not a JSON object")
    if "step" not in line:
        raise RequestError(f"{where}: step: missing")
    return line
