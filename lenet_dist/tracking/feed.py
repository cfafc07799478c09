"""Give a run's lines to its trackers as they come, and then tell them how the run ended."""

from __future__ import annotations

import functools
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
from lenet_dist.run import lock
from lenet_dist.run.directory import RunDirectory
from lenet_dist.run.lines import Line, Tail
from lenet_dist.tracking.ending import Ending, Pictures
from lenet_dist.tracking.follower import catch_up_advice
from lenet_dist.tracking.ranks import with_ranks
from lenet_dist.tracking.tracker import Tracker, in_words

_LOOK_EVERY_SECONDS = 0.5
_LAST_WORD_SECONDS = 5.0
"""How long after the result the training process may take to make the pictures."""
_LOCK = ".track.lock"
_LABELS = {"wandb": "W&B", "tensorboard": "TensorBoard"}


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

    word = _LastWord(give_up)
    # The follower of a start that was just killed may still hold it.
    lock.hold(run / _LOCK, patience_seconds=math.inf)
    _feed(run, config, names, pid, say, word.wait)
    _kill_children()


class _LastWord:
    """What the training process says on stdin at its end; from then on, time is limited."""

    def __init__(self, give_up: Callable[[Ending], None]) -> None:
        self._give_up = give_up
        self._ending: Ending | None = None
        self._is_said = Event()
        Thread(target=self._listen, daemon=True).start()

    def wait(self, seconds: float) -> Ending | None:
        """The run's ending, as soon as it is said; None if it is not said within `seconds`."""
        self._is_said.wait(seconds)
        return self._ending

    def _listen(self) -> None:
        said = sys.stdin.readline()
        ending = Ending.of_line(said) if said else Ending("lost")
        self._ending = ending
        self._is_said.set()
        time.sleep(ending.seconds)
        self._give_up(ending)


def _feed(
    run: Path,
    config: Config,
    names: list[str],
    pid: int | None,
    say: Callable[[str], None],
    wait: Callable[[float], Ending | None],
) -> list[_Guarded]:
    """Pass lines on to the trackers until `wait` gives the run's ending. Gives the trackers."""
    directory = RunDirectory(run)
    tail, of_ranks = Tail(directory.metrics.path), Tail(directory.ranks.path)
    with redirect_stderr(io.StringIO()):  # Trackers are talkative; `say` prints what matters.
        feeds = [
            _Guarded(name, functools.partial(_open, name, run, config, pid, say)) for name in names
        ]

        def read() -> list[Line]:
            lines = tail.read()  # First: a rank's line is written before its train line.
            return with_ranks(lines, of_ranks.read())

        def each(action: Callable[[Tracker], None]) -> None:
            for feed in feeds:
                if failure := feed.attempt(action):
                    say(f"{failure}; {catch_up_advice(run)}")

        def look() -> None:
            each(lambda tracker: _pass_on(_without_test(read()), tracker))

        ending = _ended(directory.result, wait, look)
        lines, result = read(), None
        if ending.kind == "completed":
            result = json.loads(directory.result.read_text())
            pictures = functools.cache(lambda: ending.pictures or _pictures_of(run, config))
            each(lambda tracker: _pass_on(lines, tracker, pictures))
        else:
            each(lambda tracker: _pass_on(_without_test(lines), tracker))
        each(lambda tracker: tracker.finish(ending, result))
    return feeds


def _ended(
    result: Path, wait: Callable[[float], Ending | None], look: Callable[[], None]
) -> Ending:
    """How the run has ended, looking for new lines until then. If there is a result, it is
    completed, whatever the last word was."""
    while True:
        look()
        ending = wait(_LOOK_EVERY_SECONDS)
        if result.exists():
            ending = ending or wait(_LAST_WORD_SECONDS)
            return Ending("completed", pictures=ending.pictures if ending else None)
        if ending:
            return ending


class _Guarded:
    """A tracker that is left alone once it has failed for good."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name = name
        self._open = open_tracker
        self._tracker: Tracker | None = None
        self._has_failed = False

    @property
    def is_up_to_date(self) -> bool:
        return not self._has_failed and self._tracker is not None and self._tracker.is_up_to_date

    def attempt(self, action: Callable[[Tracker], None]) -> str | None:
        """Do something with the tracker, opening it if need be. Gives its failure, once."""
        if self._has_failed:
            return None
        try:
            self._tracker = self._tracker or self._open()
            action(self._tracker)
        except Exception as error:  # Trackers may raise anything; none of it concerns the run.
            self._has_failed = True
            return f"{_LABELS[self._name]}: {in_words(error)}"
        return None


def _open(
    name: str, run: Path, config: Config, pid: int | None, say: Callable[[str], None]
) -> Tracker:
    start = RunDirectory(run).starts.read()[-1]
    if name == "wandb":
        from lenet_dist.tracking.wandb import WandbTracker

        return WandbTracker(run, config, start, pid, say)
    from lenet_dist.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(run)


def _pictures_of(run: Path, config: Config) -> Pictures | None:
    from lenet_dist.tracking.pictures import pictures_of  # torch, which takes a while

    return pictures_of(run, config)


def _pass_on(
    lines: list[Line], tracker: Tracker, pictures: Callable[[], Pictures | None] = lambda: None
) -> None:
    """Give the tracker the lines that it lacks."""
    while tracker.lines < len(lines):
        line = lines[tracker.lines]
        try:
            tracker.log(line, pictures() if line["kind"] == "test" else None)
        except Exception as error:
            tracker.recover(error)


def _without_test(lines: list[Line]) -> list[Line]:
    """A test line waits for the result: until that is written, the test may be run again."""
    return [line for line in lines if line["kind"] != "test"]


def _kill_children() -> None:
    """W&B's own process may still be waiting for a silent server."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
