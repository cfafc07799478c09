"""The trackers' own process: started beside the run, told how the run ended, and waited for.

Trackers block, hang and die with their servers and disks. In a process that only reads what the
run writes, they can't delay or change the run.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from lenet_dist.exits import RunFailed, Stopped, tell
from lenet_dist.signals import heard
from lenet_dist.track.tracker import Ending

_GRACE_SECONDS = 1.5
"""Extra seconds after the trackers' own deadline (Ending.seconds) before they are killed."""

_REASON_CHARACTERS = 500
"""A longer reason is cut, so that the line fits into any pipe even if nobody reads it."""


@contextmanager
def followed(run: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Let the run's trackers follow it while the body trains it; `say` prints what they report.

    Gives a function that tells them that the run is complete. After the body it waits for them, but
    no longer than the ending allows.
    """
    try:
        follower = _Follower(run, say)
    except OSError as error:
        say(f"tracking: can't start its process: {error}; {catch_up_advice(run)}")
        yield lambda: None
        return
    try:
        yield lambda: follower.tell(Ending("completed"))
    except BaseException as error:
        if isinstance(error, Stopped | RunFailed):
            tell(error)  # Before the wait: the launcher may not allow that much time.
        kind = "stopped" if isinstance(error, Stopped) else "failed"
        follower.tell(Ending(kind, str(error)[:_REASON_CHARACTERS]))
        follower.wait()
        raise
    follower.wait()


def catch_up_advice(run: Path) -> str:
    """The command that brings trackers up to date, as advice."""
    track = f"python -m lenet_dist.track {shlex.quote(str(run))}"
    return f"upload later with: {track} wandb.mode=online"


class _Follower:
    """`python -m lenet_dist.track RUN --follow PID` as a child of this process."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        self._deadline: float | None = None
        command = [sys.executable, "-m", "lenet_dist.track", str(run), "--follow", str(os.getpid())]
        # A signal to all processes of the job asks the run to stop, and the run tells its follower.
        # So these signals are blocked in the child, and in what W&B starts from it.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, heard())
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        self._relay = Thread(target=self._relay_reports, daemon=True)
        self._relay.start()

    def tell(self, ending: Ending) -> None:
        """Tell the process how the run ended; only the first call counts."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + ending.seconds + _GRACE_SECONDS
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(ending.as_line() + "\n")
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the process has ended, but no longer than the ending allows."""
        assert self._deadline is not None, "tell comes first"
        try:
            code = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._relay.join(_GRACE_SECONDS)
        if code:
            self._say(f"tracking: its process ended with {code}; {catch_up_advice(self._run)}")

    def _relay_reports(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(line.rstrip())
