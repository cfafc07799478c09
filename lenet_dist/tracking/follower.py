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

import psutil

from lenet_dist.exits import RunFailed, Stopped, tell
from lenet_dist.tracking.ending import Ending, Pictures

_GRACE_SECONDS = 1.5
"""Past those limits by this much, the process is killed."""

Complete = Callable[[Pictures | None], None]
"""Tells the trackers that the run is complete, with its pictures if there are any."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def followed(run: Path, say: Callable[[str], None]) -> Iterator[Complete]:
    """Let the run's trackers follow it while the body trains it; `say` prints what they report.

    Gives what tells them that it is complete. After the body it waits for them, but no longer than
    the ending allows.
    """
    try:
        follower = _Follower(run, say)
    except OSError as error:
        say(f"tracking: can't start its process: {error}; {catch_up_advice(run)}")
        yield lambda pictures: None
        return
    try:
        yield lambda pictures: follower.tell(Ending("completed", pictures=pictures))
    except BaseException as error:
        if isinstance(error, Stopped | RunFailed):
            tell(error)  # Before the wait: the launcher may not allow that much time.
        kind = "stopped" if isinstance(error, Stopped) else "failed"
        follower.tell(Ending(kind, str(error)))
        follower.wait()
        raise
    follower.wait()


def catch_up_advice(run: Path) -> str:
    """The command that brings trackers up to date."""
    track = f"python -m lenet_dist.track {shlex.quote(str(run))}"
    return f"upload later with: {track} wandb.mode=online"


class _Follower:
    """`python -m lenet_dist.track RUN --follow PID` as a child of this process."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        command = [sys.executable, "-m", "lenet_dist.track", str(run), "--follow", str(os.getpid())]
        # A signal to all processes of the job asks the run to stop, and the run tells its follower.
        # So these signals are blocked in the child, and in what W&B starts from it.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            )  # fmt: skip
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        self._give_way()
        self._deadline: float | None = None
        self._relay = Thread(target=self._relay_reports, daemon=True)
        self._relay.start()

    def tell(self, ending: Ending) -> None:
        """Tell it how the run ended; it may be slow to listen. Only the first word counts."""
        if self._deadline is not None:
            return
        self._let_compete()
        # A pipe may hold less than this, and whoever should read it may hang.
        Thread(target=self._write, args=(ending.as_line(),), daemon=True).start()
        self._deadline = time.monotonic() + ending.seconds + _GRACE_SECONDS

    def wait(self) -> None:
        """Wait until it has ended, but no longer than what it was told allows."""
        assert self._deadline is not None, "it waits for a word"
        try:
            code = self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._relay.join(_GRACE_SECONDS)
        if code:
            self._say(f"tracking: its process ended with {code}; {catch_up_advice(self._run)}")

    def _give_way(self) -> None:
        """Let training come first: it runs only when that leaves a core idle."""
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))
        else:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)

    def _let_compete(self) -> None:
        """Training is over: on a busy machine it would otherwise wait for other jobs to pause.

        Linux allows this to root, and to users whose RLIMIT_NICE does.
        """
        if not hasattr(os, "SCHED_IDLE"):
            return
        with suppress(psutil.NoSuchProcess):
            follower = psutil.Process(self._process.pid)
            for process in (follower, *follower.children(recursive=True)):
                _schedule_as_usual(process)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.close()

    def _relay_reports(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(line.rstrip())


def _schedule_as_usual(process: psutil.Process) -> None:
    """All threads of a process that may have ended meanwhile."""
    with suppress(psutil.NoSuchProcess):
        for thread in process.threads():
            with suppress(PermissionError, ProcessLookupError):
                os.sched_setscheduler(thread.id, os.SCHED_OTHER, os.sched_param(0))
