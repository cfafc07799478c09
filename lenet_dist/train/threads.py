"""Whether torch's CPU threads change a bit, and whether they work."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lenet_dist import exits
from lenet_dist.exits import RequestError

_PATIENCE_SECONDS = 15.0
Compute = Callable[[], Tensor]
"""Gives float32 numbers whose bits must not depend on the number of threads."""


def has_bits_of_one(compute: Compute) -> bool:
    """Whether torch's threads give the bits that one gives, on this machine."""
    if torch.get_num_threads() == 1:
        return True
    with one_thread():
        alone = compute()
    return torch.equal(compute().view(torch.int32), alone.view(torch.int32))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread within the body."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_threads_of_fork() -> None:
    """End the process with a message if torch's threads can't compute here: in a fork of a process
    that has computed on several, OpenMP waits for theirs for ever."""
    if multiprocessing.parent_process() is None or torch.get_num_threads() == 1:
        return
    refusal = RequestError(
        "this process was forked from one whose torch had computed on several threads, so here it"
        " can't: restart the notebook's kernel and start the processes first, or write"
        " compute.threads=1"
    )
    timer = threading.Timer(_PATIENCE_SECONDS, exits.leave, [refusal])
    timer.daemon = True
    timer.start()
    torch.ones(1 << 20).exp_()
    timer.cancel()
