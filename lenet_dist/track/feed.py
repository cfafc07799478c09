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
from lenet_dist.files import is_disk_full
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
    if not _feed(run, config, names, None, print, lambda seconds: Ending("incomplete")):
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
        late = f"tracking: not done in {endings[0].seconds:.0f} s"
        if is_disk_full(run / "wandb"):
            late += f": can't write everything to {run / 'wandb'}: its disk is full"
        say(f"{late}; {catch_up_advice(run)}")
        _kill_children()
        os._exit(exits.DONE)

    Thread(target=listen, daemon=True).start()
    # The follower of a start that was just killed may still hold it.
    lock.hold(run / _LOCK, patience_seconds=math.inf)
    _feed(run, config, names, pid, say, lambda s: endings[0] if is_over.wait(s) else None)
    _kill_children()


def _feed(
    run: Path, config: Config, names: list[str], pid: int | None, say: Say, wait: Wait
) -> bool:
    """Pass lines on to the trackers until `wait` gives the run's ending. Gives whether everything
    has arrived at them."""
    directory = RunDirectory(run)
    metrics, ranks = Tail(directory.metrics.path), Tail(directory.ranks.path)
    trackers: dict[str, Tracker] = {}
    failed: set[str] = set()

    def with_each(action: Callable[[Tracker], None]) -> None:
        """Do something with each tracker, but for those that have failed for good."""
        for name in names:
            if name in failed:
                continue
            try:
                if name not in trackers:
                    trackers[name] = _open(name, run, config, pid, say)
                action(trackers[name])
            except Exception as error:  # Trackers may raise anything; none of it concerns the run.
                failed.add(name)
                say(f"{_LABELS[name]}: {one_line(error)}; {catch_up_advice(run)}")

    def pass_on(is_complete: bool) -> None:
        # A rank's line is written before its train line. A test line waits for the result:
        # until that is written, the test may be run again.
        ranks_by_step = {line["step"]: line for line in ranks.read()}
        lines = [
            line | {"ranks": ranks_by_step.get(line["step"])}
            for line in metrics.read()
            if is_complete or line["kind"] != "test"
        ]
        with_each(lambda tracker: _pass_on(lines, tracker))

    with redirect_stderr(io.StringIO()):  # Trackers are talkative; `say` prints what matters.
        ending = None
        while ending is None:
            pass_on(is_complete=False)
            ending = wait(_LOOK_EVERY_SECONDS)
            if directory.result.exists():  # Then it is complete, however the start ended.
                wait(_COMPLETED_SECONDS)
                ending = Ending("completed")
        result = directory.read_result() if ending.kind == "completed" else None
        pass_on(is_complete=result is not None)
        with_each(lambda tracker: tracker.finish(ending, result))
    return not failed and all(tracker.is_up_to_date for tracker in trackers.values())


def _open(name: str, run: Path, config: Config, pid: int | None, say: Say) -> Tracker:
    if name == "wandb":
        from lenet_dist.track.wandb import WandbTracker

        return WandbTracker(run, config, RunDirectory(run).starts.read()[-1], pid, say)
    from lenet_dist.track.tensorboard import TensorBoardTracker

    return TensorBoardTracker(run)


def _pass_on(lines: list[Line], tracker: Tracker) -> None:
    """Give the tracker the lines that it lacks."""
    while tracker.lines < len(lines):
        tracker.log(lines[tracker.lines])


def _kill_children() -> None:
    """Kill W&B's own process, which may still be waiting for a silent server."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
