"""Writing files so that a kill, a full disk or a power cut leaves nothing half-done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lenet_dist.exits import RunFailed


def write_atomically(path: Path, content: bytes) -> None:
    """Have the file at `path` be this content, whole, on disk, or be what it was before.

    Raises RunFailed naming the file and the reason.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with failures_named(path):
        write_durably(temporary, content)
        os.replace(temporary, path)
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line; the kernel has it on return. Raises RunFailed naming the file and the reason."""
    with failures_named(path), open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until the disk has what was written. Raises RunFailed naming the file and the reason."""
    with failures_named(path), open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries, so that a rename in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def failures_named(path: Path, advice: str = "") -> Iterator[None]:
    """Turn what the system refuses into RunFailed, naming the file, the reason and what to do."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"can't write {path}: {error.strerror or error}{advice}") from None
