"""Whether the number of CPU threads changes a bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

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
