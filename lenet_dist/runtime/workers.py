"""Threads that work side by side, each with kernels of one thread.

For small tensors that is faster than kernels of several threads, which wait for each other many
times a step; and what comes out does not depend on how many threads there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")


class Workers:
    """`count` threads; 1: the thread that asks, with its kernels as they are."""

    def __init__(self, count: int) -> None:
        self.count = count
        if count > 1:
            # Else one that waits for Python's lock does so for up to 5 ms.
            sys.setswitchinterval(1e-4)
        self._pool = ThreadPoolExecutor(count, "worker", initializer=_alone) if count > 1 else None

    def map(self, work: Callable[[T], U], parts: Iterable[T]) -> list[U]:
        """What `work` makes of each part, in the parts' order."""
        return list((self._pool.map if self._pool else map)(work, parts))


ALONE = Workers(1)


def _alone() -> None:
    torch.set_num_threads(1)
