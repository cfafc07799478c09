"""The sum over a step's shards, in an order that does not depend on who computed what.

Floating-point sums depend on their order, and an all-reduce's order on the number of processes.
Here the order is fixed: a binary tree over all shards, whichever process has which of them.
Fixed virtual workers for bit-equality across world sizes: Li et al., "EasyScale", SC 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lenet_dist.train.stopwatch import Stopwatch

GATHER_LIMIT = 2**22
"""Numbers. Up to so many from all processes together, every process gets all of them and adds by
itself: one collective. Beyond that each process adds a slice: two collectives, and what a process
sends and holds no longer grows with the number of processes."""


class Block(NamedTuple):
    """The shards from `first` up to, but not including, `stop`: all those under one tree node."""

    first: int
    stop: int


Sums = list[tuple[Block, Tensor]]
"""Blocks in their order, each with the sum [width] of its shards' rows."""


def blocks(shards: range, count: int) -> list[Block]:
    """The fewest blocks that make up `shards`, of `count` in all."""
    found = []
    first = shards.start
    while first < shards.stop:
        size = 1
        while (
            first % (2 * size) == 0
            and min(first + 2 * size, count) <= shards.stop
            and first + size < count
        ):
            size *= 2
        found.append(Block(first, min(first + size, count)))
        first = found[-1].stop
    return found


def tree_sum(rows: Tensor) -> Tensor:
    """The sum [width] of the rows [n, width] of a block's shards: neighbours are added, then
    neighbours among the sums; a last one without a partner is passed on."""
    while len(rows) > 1:
        paired = len(rows) // 2 * 2
        sums = rows[0:paired:2] + rows[1:paired:2]
        rows = sums if paired == len(rows) else torch.cat([sums, rows[paired:]])
    return rows[0]


def merge_siblings(sums: Iterable[tuple[Block, Tensor]], count: int) -> Sums:
    """The sums with siblings added to their parent's sum, and parents to theirs, all the way up.

    At most log2 of `count` sums are kept while they come.
    """
    merged: Sums = []
    for block, total in sums:
        merged.append((block, total))
        while len(merged) > 1 and _are_siblings(merged[-2][0], merged[-1][0], count):
            (right, of_right), (left, of_left) = merged.pop(), merged.pop()
            merged.append((Block(left.first, right.stop), of_left + of_right))
    return merged


def _are_siblings(left: Block, right: Block, count: int) -> bool:
    size = left.stop - left.first
    return left.first % (2 * size) == 0 and right.stop == min(left.first + 2 * size, count)


class TreeAllReduce:
    """The sum over all shards, on every process: rank r has those in `shards_by_rank[r]`.

    `gather` takes each process's rows and gives all of them, by rank.
    """

    def __init__(
        self,
        shards_by_rank: Sequence[range],
        rank: int,
        width: int,
        gather: Callable[[Tensor], Tensor],
        stopwatch: Stopwatch,
    ) -> None:
        self.count = shards_by_rank[-1].stop
        self.blocks = [blocks(shards, self.count) for shards in shards_by_rank]
        self.rank = rank
        self.gather = gather
        self.stopwatch = stopwatch
        self.width = width
        world_size, rows = len(shards_by_rank), rows_sent(shards_by_rank)
        self.is_sliced = world_size > 1 and world_size * rows * width > GATHER_LIMIT
        self.slice_width = -(-width // world_size)
        padded = self.slice_width * world_size if self.is_sliced else width
        self.sent = torch.zeros(rows, padded, device=stopwatch.device)

    def __call__(self, sums: Sums) -> Tensor:
        """The sum [width], with the same bits on every process, from the `sums` over this process's
        shards. A collective."""
        assert [block for block, _ in sums] == self.blocks[self.rank]
        if len(self.blocks) == 1:
            [(_, total)] = sums
            return total
        for row, (_, total) in zip(self.sent, sums, strict=False):
            row[: len(total)] = total
        began = self.stopwatch.mark()
        if not self.is_sliced:
            rows = self.gather(self.sent).unflatten(0, (len(self.blocks), -1))
            self.stopwatch.add_wait(began)
            return self._root(rows)
        # A slice of every process's rows comes here, its sum goes to every process.
        slices = self.sent.unflatten(1, (len(self.blocks), -1)).transpose(0, 1).contiguous()
        received = torch.empty_like(slices)
        dist.all_to_all_single(received, slices)
        total = slices.new_empty(self.sent.shape[1])
        dist.all_gather_into_tensor(total, self._root(received))
        self.stopwatch.add_wait(began)
        return total[: self.width]

    def _root(self, rows: Tensor) -> Tensor:
        """The sum [width] of rows [world size, rows of a rank, width]."""
        of_all = zip(self.blocks, rows, strict=True)
        pairs = (pair for part in of_all for pair in zip(*part, strict=False))
        [(_, total)] = merge_siblings(pairs, self.count)
        # With a single shard nothing was added: the row is still the gather's memory.
        return total.clone() if self.count == 1 else total


def rows_sent(shards_by_rank: Sequence[range]) -> int:
    """Rows that every process sends: the most that one of them has. Some may be empty."""
    return max(len(blocks(shards, shards_by_rank[-1].stop)) for shards in shards_by_rank)
