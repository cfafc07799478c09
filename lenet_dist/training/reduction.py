"""The sum over a step's shards, in an order that does not depend on who computed what.

Floating-point sums depend on their order, and an all-reduce's order on the number of processes.
Here the order is fixed: a binary tree over all shards, whichever process has which of them.
Fixed virtual workers for bit-equality across world sizes: Li et al., "EasyScale", SC 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lenet_dist.processes.exchange import Gather


class Block(NamedTuple):
    """The shards from `first` up to, but not including, `stop`: all those under one tree node."""

    first: int
    stop: int


Sums = list[tuple[Block, Tensor]]
"""Blocks in their order, each with the sum [width] of its shards' rows."""


def blocks(shards: range, count: int, largest: int | None = None) -> list[Block]:
    """The fewest blocks of at most `largest` shards that make up `shards`, of `count` in all."""
    found = []
    first = shards.start
    while first < shards.stop:
        size = 1
        while (
            2 * size <= (largest or 2 * count)
            and first % (2 * size) == 0
            and min(first + 2 * size, count) <= shards.stop
            and first + size < count
        ):
            size *= 2
        found.append(Block(first, min(first + size, count)))
        first = found[-1].stop
    return found


def block_sum(rows: Tensor) -> Tensor:
    """The sum [width] of the rows [n, width] of a block's shards."""
    while len(rows) > 1:
        rows = add_pairs(rows)
    return rows[0]


def add_pairs(rows: Tensor) -> Tensor:
    """One level of the tree: rows 0+1, 2+3, ...; a last one without a partner is passed on."""
    paired = len(rows) // 2 * 2
    sums = rows[0:paired:2] + rows[1:paired:2]
    return sums if paired == len(rows) else torch.cat([sums, rows[paired:]])


def joined(sums: Iterable[tuple[Block, Tensor]], count: int) -> Sums:
    """The same, with neighbours added wherever they are two halves of a node, all the way up."""
    found: Sums = []
    for block, total in sums:
        found.append((block, total))
        while len(found) > 1 and _are_halves(found[-2][0], found[-1][0], count):
            (right, of_right), (left, of_left) = found.pop(), found.pop()
            found.append((Block(left.first, right.stop), of_left + of_right))
    return found


def _are_halves(left: Block, right: Block, count: int) -> bool:
    size = left.stop - left.first
    return left.first % (2 * size) == 0 and right.stop == min(left.first + 2 * size, count)


class ShardSum:
    """The sum over all `count` shards, of which process number r has `dealt[r]`."""

    def __init__(
        self, dealt: Sequence[range], rank: int, width: int, gather: Gather, device: torch.device
    ) -> None:
        self.count = dealt[-1].stop
        self.blocks = [blocks(shards, self.count) for shards in dealt]
        self.rank = rank
        self.gather = gather
        self.sent = torch.zeros(rows_sent(dealt), width, device=device)

    def __call__(self, sums: Iterable[tuple[Block, Tensor]]) -> Tensor:
        """The sum [width], with the same bits on every process, from the `sums` of this process's
        shards. A collective: a process gets the rest from the others."""
        mine = joined(sums, self.count)
        assert [block for block, _ in mine] == self.blocks[self.rank]
        if len(self.blocks) > 1:
            for place, (_, total) in zip(self.sent, mine, strict=False):
                place.copy_(total)
            rows = self.gather(self.sent).unflatten(0, (len(self.blocks), -1))
            of_all = zip(self.blocks, rows, strict=True)
            mine = joined(
                (pair for part in of_all for pair in zip(*part, strict=False)), self.count
            )
        [(_, total)] = mine
        # With a single shard nothing was added: the row is still the gather's memory.
        return total.clone() if self.count == 1 else total


def rows_sent(dealt: Sequence[range]) -> int:
    """Rows that every process sends: the most that one of them has. Some may be empty."""
    return max(len(blocks(shards, dealt[-1].stop)) for shards in dealt)
