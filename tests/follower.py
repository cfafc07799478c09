"""The process that feeds a run's trackers, and W&B's own below it, as a test waits for them."""

from __future__ import annotations

import glob
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.processes import Job, wait_until


def family(job: Job) -> list[psutil.Process]:
    """The descendants of the main process: the follower, and what W&B starts from it."""
    assert job.main.process.pid is not None
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(job.main.process.pid).children(recursive=True)
    return []


def hold_until(job: Job, condition: Callable[[], bool]) -> Job:
    """Wait until W&B is so far, with training held up that it may not end before. Gives the job."""
    hold(job)
    let_go_when(job, condition)
    return job


def hold(job: Job) -> None:
    """Keep the ranks from running, from when the main process has started its follower."""
    job.until(lambda: len(family(job)) > 0)
    for rank in job.ranks:
        rank.send(signal.SIGSTOP)


def let_go_when(job: Job, condition: Callable[[], bool]) -> None:
    """Let the ranks run when W&B is so far."""
    wait_until(condition, lambda: family(job))
    for rank in job.ranks:
        rank.send(signal.SIGCONT)


def has_segment(job: Job) -> Callable[[], bool]:
    """Whether W&B has begun to write a segment since now."""

    def segments() -> set[str]:
        # Not by Path, which fails if a folder is moved away meanwhile.
        files = glob.glob(f"{job.directory}/wandb/*run-*-*/*.wandb")  # noqa: PTH207
        return {Path(file).parent.name for file in files}

    before = segments()
    return lambda: bool(segments() - before)
