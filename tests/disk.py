"""File systems with little room, and files that are busy, where one may mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size (``64k``, ``3m``) on a new folder; skips where that is refused."""
    folder.mkdir(parents=True)
    tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(tmpfs, capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def bound(path: Path) -> Iterator[None]:
    """Mount a file or folder on itself, so that it is busy; skips where that is refused."""
    if subprocess.run(["mount", "--bind", path, path], capture_output=True, check=False).returncode:
        pytest.skip("needs root and the right to mount")
    try:
        yield
    finally:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            place = line.split()[1]  # It may have been renamed.
            if place.startswith(str(path.parent.parent)):
                subprocess.run(["umount", "--lazy", place], check=True)
