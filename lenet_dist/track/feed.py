"""Give a run's lines to its trackers as they come, and then tell them how the run ended."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from threading import Event, Thread

import psutil

from lenet_dist import exits
from lenet_dist.config import Config
from lenet_dist.exits import RunFailed
from lenet_dist.files import share_as_folder
from lenet_dist.run_dir import lock
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.lines import Line, Tail
from lenet_dist.track.follower import catch_up_advice
from lenet_dist.track.tracker import Ending, Tracker, one_line

_LOOK_EVERY_SECONDS = 0.5
_COMPLETED_SECONDS = 5.0
"""How long after the result the training process may take to keep the sample images."""
_LOCK = ".track.lock"
_LABELS = {"wandb": "W&B", "tensorboard": "TensorBoard"}
_NICENESS = 10

Say = Callable[[str], None]
Wait = Callable[[float], Ending | None]
"""Gives the run's ending as soon as it is known, or None after so many seconds."""


def catch_up(run: Path, config: Config, names: list[str]) -> None:
    """Give the trackers everything they lack, of a run that is not being trained.

    Raises RequestError if another process is feeding them, RunFailed if they still lack something.
    """
    lock.hold(run / _LOCK)
    feeds = _feed(run, config, names, None, print, lambda seconds: Ending("incomplete"))
    if not all(feed.is_up_to_date for feed in feeds):
        raise RunFailed(f"{run}: not everything has been uploaded")


def follow(run: Path, config: Config, names: list[str], pid: int) -> None:
    """Track the run that process `pid` trains; this one's stdin and stdout are pipes to it."""
    with suppress(OSError):  # Training comes first; a sandbox may refuse the call.
        os.nice(_NICENESS)
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    # W&B's own process must not keep the pipe open.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def say(text: str) -> None:
        with suppress(BrokenPipeError):  # The process that trains may have been killed.
            print(text, file=reports)

    endings: list[Ending] = []
    is_over = Event()

    def listen() -> None:
        """Read from stdin how the run ended, and end this process when its time is over."""
        line = sys.stdin.readline()
        endings.append(Ending.of_line(line) if line else Ending("lost"))
        is_over.set()
        time.sleep(endings[0].seconds)
        say(f"tracking: not done in {endings[0].seconds:.0f} s; {catch_up_advice(run)}")
        _kill_children()
        os._exit(exits.DONE)

    Thread(target=listen, daemon=True).start()
    # The follower of a start that was just killed may still hold it.
    lock.hold(run / _LOCK, patience_seconds=math.inf)
    _feed(run, config, names, pid, say, lambda s: endings[0] if is_over.wait(s) else None)
    _kill_children()


def _feed(
    run: Path, config: Config, names: list[str], pid: int | None, say: Say, wait: Wait
) -> list[_Feed]:
    """Pass lines on to the trackers until `wait` gives the run's ending. Gives their feeds."""
    directory = RunDirectory(run)
    metrics, ranks = Tail(directory.metrics.path), Tail(directory.ranks.path)
    with redirect_stderr(io.StringIO()):  # Trackers are talkative; `say` prints what matters.
        feeds = [_Feed(name, run, config, pid, say) for name in names]

        def pass_on(is_complete: bool) -> None:
            # A rank's line is written before its train line. A test line waits for the result:
            # until that is written, the test may be run again.
            ranks_by_step = {line["step"]: line for line in ranks.read()}
            lines = [
                line | {"ranks": ranks_by_step.get(line["step"])}
                for line in metrics.read()
                if is_complete or line["kind"] != "test"
            ]
            for feed in feeds:
                feed.attempt(lambda tracker: _pass_on(lines, tracker))

        ending = None
        while ending is None:
            pass_on(False)
            ending = wait(_LOOK_EVERY_SECONDS)
            if directory.result.exists():  # Then it is complete, however the start ended.
                wait(_COMPLETED_SECONDS)
                ending = Ending("completed")
        is_complete = ending.kind == "completed"
        pass_on(is_complete)
        result = directory.read_result() if is_complete else None
        for feed in feeds:
            feed.attempt(lambda tracker: tracker.finish(ending, result))
        _share_files_of_wandb(run)
    return feeds


def _share_files_of_wandb(run: Path) -> None:
    """W&B writes some for one user only, and some for everyone."""
    with suppress(OSError):
        share_as_folder(run / "wandb")


class _Feed:
    """A tracker that is left alone once it has failed for good."""

    def __init__(self, name: str, run: Path, config: Config, pid: int | None, say: Say) -> None:
        self._name, self._run, self._config, self._pid, self._say = name, run, config, pid, say
        self._tracker: Tracker | None = None
        self._has_failed = False

    @property
    def is_up_to_date(self) -> bool:
        """Whether everything has arrived at the tracker."""
        return not self._has_failed and self._tracker is not None and self._tracker.is_up_to_date

    def attempt(self, action: Callable[[Tracker], None]) -> None:
        """Do something with the tracker, opening it if need be, and say so once if it fails."""
        if self._has_failed:
            return
        try:
            self._tracker = self._tracker or self._open()
            action(self._tracker)
        except Exception as error:  # Trackers may raise anything; none of it concerns the run.
            self._has_failed = True
            self._say(f"{_LABELS[self._name]}: {one_line(error)}; {catch_up_advice(self._run)}")

    def _open(self) -> Tracker:
        if self._name == "wandb":
            from lenet_dist.track.wandb import WandbTracker

            start = RunDirectory(self._run).starts.read()[-1]
            tracker = WandbTracker(self._run, self._config, start, self._pid, self._say)
            _share_files_of_wandb(self._run)
            return tracker
        from lenet_dist.track.tensorboard import TensorBoardTracker

        return TensorBoardTracker(self._run)


def _pass_on(lines: list[Line], tracker: Tracker) -> None:
    """Give the tracker the lines that it lacks."""
    while tracker.lines < len(lines):
        try:
            tracker.log(lines[tracker.lines])
        except Exception as error:
            tracker.recover(error)


def _kill_children() -> None:
    """Kill W&B's own process, which may still be waiting for a silent server."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
