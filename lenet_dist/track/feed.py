"""Give a run's lines to its trackers as they come, and then tell them how the run ended."""

from __future__ import annotations

import io
import json
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
from lenet_dist.run_dir import lock
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.lines import Line, Tail
from lenet_dist.track.ending import Ending
from lenet_dist.track.follower import catch_up_advice
from lenet_dist.track.rank_times import with_ranks
from lenet_dist.track.tracker import Tracker, in_words

_LOOK_EVERY_SECONDS = 0.5
_LAST_WORD_SECONDS = 5.0
"""How long after the result the training process may take to keep the pictures."""
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

    def give_up(ending: Ending) -> None:
        say(f"tracking: not done in {ending.seconds:.0f} s; {catch_up_advice(run)}")
        _kill_children()
        os._exit(exits.DONE)

    wait = _last_word(give_up)
    # The follower of a start that was just killed may still hold it.
    lock.hold(run / _LOCK, patience_seconds=math.inf)
    _feed(run, config, names, pid, say, wait)
    _kill_children()


def _last_word(give_up: Callable[[Ending], None]) -> Wait:
    """Listen on stdin for how the run ended; `give_up` comes when the time after that is over."""
    said: list[Ending] = []
    is_said = Event()

    def listen() -> None:
        line = sys.stdin.readline()
        said.append(Ending.of_line(line) if line else Ending("lost"))
        is_said.set()
        time.sleep(said[0].seconds)
        give_up(said[0])

    def wait(seconds: float) -> Ending | None:
        return said[0] if is_said.wait(seconds) else None

    Thread(target=listen, daemon=True).start()
    return wait


def _feed(
    run: Path, config: Config, names: list[str], pid: int | None, say: Say, wait: Wait
) -> list[_Guarded]:
    """Pass lines on to the trackers until `wait` gives the run's ending. Gives the trackers."""
    directory = RunDirectory(run)
    metrics, ranks = Tail(directory.metrics.path), Tail(directory.ranks.path)
    with redirect_stderr(io.StringIO()):  # Trackers are talkative; `say` prints what matters.
        feeds = [_Guarded(name, run, config, pid, say) for name in names]

        def pass_on(is_complete: bool) -> None:
            # A rank's line is written before its train line. A test line waits for the result:
            # until that is written, the test may be run again.
            lines, of_ranks = metrics.read(), ranks.read()
            lines = [line for line in lines if is_complete or line["kind"] != "test"]
            for feed in feeds:
                feed.attempt(lambda tracker: _pass_on(with_ranks(lines, of_ranks), tracker))

        ending = None
        while ending is None:
            pass_on(False)
            ending = wait(_LOOK_EVERY_SECONDS)
            if directory.result.exists():  # Then it is complete, whatever the last word was.
                wait(_LAST_WORD_SECONDS)
                ending = Ending("completed")
        is_complete = ending.kind == "completed"
        pass_on(is_complete)
        result = json.loads(directory.result.read_text()) if is_complete else None
        for feed in feeds:
            feed.attempt(lambda tracker: tracker.finish(ending, result))
    return feeds


class _Guarded:
    """A tracker that is left alone once it has failed for good."""

    def __init__(self, name: str, run: Path, config: Config, pid: int | None, say: Say) -> None:
        self._name, self._run, self._config, self._pid, self._say = name, run, config, pid, say
        self._tracker: Tracker | None = None
        self._has_failed = False

    @property
    def is_up_to_date(self) -> bool:
        """Whether all has arrived where it was to go."""
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
            self._say(f"{_LABELS[self._name]}: {in_words(error)}; {catch_up_advice(self._run)}")

    def _open(self) -> Tracker:
        if self._name == "wandb":
            from lenet_dist.track.wandb import WandbTracker

            start = RunDirectory(self._run).starts.read()[-1]
            return WandbTracker(self._run, self._config, start, self._pid, self._say)
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
    """W&B's own process may still be waiting for a silent server."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
