"""metrics.jsonl: the truth about a run, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lenet_dist.exits import RunFailed

Line = dict[str, Any]


class MetricsFile:
    """Appends lines; each is with the kernel when `write` returns, with the disk after `sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Line) -> None:
        """Append a line. Raises RunFailed naming the file if it can't be written."""
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise RunFailed(f"can't write {self.path}: {error.strerror or error}") from None

    def sync(self) -> None:
        """Wait until the disk has every line: a checkpoint must never be ahead of its metrics."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())

    def read(self) -> list[Line]:
        """Every whole line; one that a kill cut short is left out."""
        lines: list[Line] = []
        if not self.path.exists():
            return lines
        for text in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def keep(self, wanted: Callable[[Line], bool]) -> list[Line]:
        """Take out all lines but the wanted ones; gives those."""
        lines = [line for line in self.read() if wanted(line)]
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, self.path)
        return lines
