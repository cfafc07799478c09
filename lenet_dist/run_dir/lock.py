"""One job per run directory."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lenet_dist.exits import RequestError

_TRY_EVERY_SECONDS = 0.2

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What NFS, Lustre and FUSE answer where locks are not set up."""

_held: list[IO[str]] = []
"""Open until the process ends, because closing a file would release its lock."""


@contextmanager
def released_after() -> Iterator[None]:
    """Release the locks that the body takes, where the process goes on without what they guard."""
    before = len(_held)
    try:
        yield
    finally:
        while len(_held) > before:
            _held.pop().close()


def hold(path: Path, patience_seconds: float = 0) -> None:
    """Hold the lock on this file until the process ends, however it ends: the kernel releases it.

    The file remains and names the last owner; only the kernel's lock on it counts. Raises
    RequestError naming the owner if another process still holds it after `patience_seconds`, or
    naming the file if the file system has no locks.
    """
    file = open(path, "a+")  # noqa: SIM115 (see _held)
    deadline = time.monotonic() + patience_seconds
    while not (is_locked := _try_to_lock(file)) and time.monotonic() < deadline:
        time.sleep(_TRY_EVERY_SECONDS)
    if not is_locked:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        raise RequestError(
            f"{path.parent}: another job is using this run: {owner};"
            " wait for it, or choose another run.name"
        )
    file.truncate(0)
    job = os.environ.get("SLURM_JOB_ID")
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": job}))
    file.flush()
    _held.append(file)


def _try_to_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise RequestError(
            f"{file.name}: the file system has no locks (flock: {error.strerror}), so two jobs"
            " could work on one run: mount it with locks, or choose a run.root on another one"
        ) from None
    return True
