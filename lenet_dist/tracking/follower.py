"""The trackers' own process: started beside the run, told how the run ended, and waited for.

Trackers block, hang and die with their servers and disks. In a process that only reads what the
run writes, they can't delay or change the run.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread

from lenet_dist.exits import RunFailed, Stopped, tell

SECONDS_AT_THE_END = 27.0
"""Longest that trackers may take once a run is complete."""

SECONDS_AT_A_STOP = 9.0
"""The same if it is stopped or has failed: a preempted job has little time left."""

_GRACE_SECONDS = 1.5
"""Past those limits by this much, the process is killed."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended: `completed`, `stopped`, `failed`, `lost` if it ended without a
    word, or `incomplete` if nobody saw it end."""

    kind: str
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Longest that trackers may take after it."""
        return SECONDS_AT_THE_END if self.kind == "completed" else SECONDS_AT_A_STOP


@contextmanager
def followed(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Let the run's trackers follow it while the body trains it; `say` prints what they report.

    After the body it waits for them, but no longer than the ending allows.
    """
    try:
        follower = _Follower(run, say)
    except OSError as error:
        say(f"tracking: can't start its process: {error}; {catch_up_advice(run)}")
        yield
        return
    try:
        yield
    except BaseException as error:
        if isinstance(error, Stopped | RunFailed):
            tell(error)  # Before the wait: the launcher may not allow that much time.
        kind = "stopped" if isinstance(error, Stopped) else "failed"
        follower.end(Ending(kind, str(error)))
        raise
    follower.end(Ending("completed"))


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
        self._relay = Thread(target=self._relay_reports, daemon=True)
        self._relay.start()

    def end(self, ending: Ending) -> None:
        """Tell it how the run ended, and wait for it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(asdict(ending)) + "\n")
            self._process.stdin.close()
        try:
            code = self._process.wait(ending.seconds + _GRACE_SECONDS)
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
