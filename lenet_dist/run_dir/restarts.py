"""An elastic launcher starts a job again after every failure. Only progress lets it go on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lenet_dist.exits import LostProcess, RunFailed, Stopped
from lenet_dist.files import write_atomically
from lenet_dist.launchers import find_torchrun, is_elastic
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.lines import Line

_MOST_STARTS = 3
"""In a row, from one step: machines may be lost soon after a start, but not for ever."""


@contextmanager
def error_kept(directory: RunDirectory) -> Iterator[None]:
    """Under an elastic launcher, keep in RUN/error.txt why this start failed, for the next to tell.

    What happened to a process counts more than that the others lost it.
    """
    try:
        yield
    except Exception as error:
        is_lost = isinstance(error, LostProcess)
        is_known = directory.error.exists() if is_lost else isinstance(error, Stopped)
        if is_elastic() and directory.path.is_dir() and not is_known:
            kind = "" if isinstance(error, RunFailed) else f"{type(error).__name__}: "
            with suppress(RunFailed):
                write_atomically(directory.error, f"{kind}{error}".encode())
        raise


def check_progress(directory: RunDirectory, starts: list[Line], step: int) -> str | None:
    """The launcher, as starts.jsonl records it; None without an elastic one.

    Raises RunFailed, with the error that ended the last start, if the launcher has started the job
    at this step again and again.
    """
    if not is_elastic():
        return None
    launcher = socket.gethostname()
    if torchrun := find_torchrun():
        launcher += f", process {torchrun.pid} of {torchrun.create_time():.0f}"
    in_vain = 0
    for start in reversed(starts):
        if (start["step"], start.get("launcher")) != (step, launcher):
            break
        in_vain += 1
    if in_vain >= _MOST_STARTS:
        reason = directory.error.read_text() if directory.error.exists() else "no process said why"
        raise RunFailed(
            f"{in_vain} starts in a row began at step {step} and took the run no further: {reason}"
        )
    directory.error.unlink(missing_ok=True)
    return launcher
