"""The folder of the runs: how fast it is, and whether all processes see the same one."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import failures_named, sync, sync_folder, write_durably, write_folder

_CHUNK, _CHUNKS = 4 * 2**20, 8
_WRITE_SECONDS = 2.0
_SEEN_SECONDS = 3.0
"""The longest that a network file system may hide a new file from the other nodes."""


@contextmanager
def run_root(root: Path) -> Iterator[Path]:
    """The folder, made if need be; what was made is removed afterwards unless something is in it.

    Raises RequestError if it can't be made or written to.
    """
    made: list[Path] = []
    try:
        try:
            made = [folder for folder in (root, *root.parents) if not folder.exists()]
            root.mkdir(parents=True, exist_ok=True)
            with _temporary(root) as path:
                path.touch()
        except OSError as error:
            raise RequestError(f"run.root={root}: can't write there: {error}") from None
        yield root
    finally:
        for folder in made:
            with suppress(OSError):  # Another process has removed it, or something is in it.
                folder.rmdir()


def write_speed(folder: Path) -> float:
    """MB/s (10^6 bytes) of 4 MiB writes, each synced to the disk: 32 MiB, or two seconds' worth.

    Raises RunFailed naming the file and the reason, or the folder if folders can't be renamed: a
    checkpoint is one.
    """
    with _temporary(folder) as old, _temporary(folder) as new:
        with failures_named(old):
            write_folder(old, {"file": b"new"})
        try:
            os.rename(old, new)
        except OSError as error:
            raise RunFailed(f"{folder}: folders can't be renamed there: {error.strerror}") from None
    chunk = os.urandom(_CHUNK)  # Zeros flatter a file system that compresses.
    with _temporary(folder) as path, failures_named(path), open(path, "wb", buffering=0) as file:
        written, began = 0, time.perf_counter()
        for _ in range(_CHUNKS):
            written += file.write(chunk)
            sync(file.fileno())
            seconds = time.perf_counter() - began
            if seconds > _WRITE_SECONDS:
                break
    return written / seconds / 1e6


@contextmanager
def token(folder: Path) -> Iterator[tuple[str, str]]:
    """A file for the other processes to look for, locked by this one: its name and its text.

    Raises RunFailed naming the file and the reason.
    """
    text = secrets.token_hex()
    with _temporary(folder) as path, failures_named(path):
        write_durably(path, text.encode())
        sync_folder(folder)
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path.name, text


def find_token(folder: Path, name: str, text: str) -> None:
    """Find another process's token in this folder, and the lock on it.

    Raises RunFailed if the token does not appear within a few seconds, or if the lock on it would
    not keep this process out.
    """
    path = folder / name
    deadline = time.monotonic() + _SEEN_SECONDS
    while not _holds(path, text):
        if time.monotonic() > deadline:
            raise RunFailed(f"{folder.resolve()}: not the folder that rank 0 has by this name")
        time.sleep(0.1)
    with failures_named(path), open(path, "rb") as file, suppress(BlockingIOError):
        # A shared lock, so that the processes that look don't take each other for the holder.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        raise RunFailed(
            f"{folder.resolve()}: the lock that rank 0 holds there has no effect here: two jobs"
            " could work on one run"
        )


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):
        return path.read_text() == text
    return False


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    # The name says what the file is, because a kill may leave it behind.
    name = f".preflight-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    path = folder / name
    try:
        yield path
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
