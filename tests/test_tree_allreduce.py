"""The sum over shards: one tree, bit for bit, whoever holds which rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from lenet_dist.plan import partition
from lenet_dist.train.local_sums import parts
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.tree_allreduce import (
    TreeAllReduce,
    blocks,
    merge_siblings,
    rows_sent,
    tree_sum,
)


def random_rows(count: int, width: int = 9, seed: int = 0) -> Tensor:
    """Numbers of very different sizes, whose sum depends on its order."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.pow(10.0, torch.randint(-6, 7, (count, width), generator=generator))
    return torch.randn(count, width, generator=generator) * sizes


def tree(rows: list[Tensor]) -> Tensor:
    """Neighbours added, then neighbours among the sums, until one is left."""
    while len(rows) > 1:
        level = []
        for i in range(0, len(rows), 2):
            level.append(rows[i] + rows[i + 1] if i + 1 < len(rows) else rows[i])
        rows = level
    return rows[0]


@pytest.mark.parametrize("count", range(1, 18))
def test_the_sum_of_rows_is_that_of_the_tree(count: int) -> None:
    rows = random_rows(count)
    assert torch.equal(tree_sum(rows), tree(list(rows)))


def on_many(rows: Tensor, world_size: int, at_once: int = 64) -> list[Tensor]:
    """The sum as each process has it: processes are threads here, with the product's own code."""
    count, by_rank = len(rows), partition(len(rows), world_size)
    sent: list[Tensor] = [rows] * world_size
    barrier = threading.Barrier(world_size, timeout=60)

    def total(rank: int) -> Tensor:
        def gather(mine: Tensor) -> Tensor:
            sent[rank] = mine
            barrier.wait()
            return torch.cat(sent)

        of_all = TreeAllReduce(by_rank, rank, rows.shape[1], gather, Stopwatch(rows.device))
        sums = (
            (block, tree_sum(rows[block.first : block.stop]))
            for part in parts(by_rank[rank], at_once)
            for block in blocks(part, count)
        )
        return of_all(merge_siblings(sums, count))

    with ThreadPoolExecutor(world_size) as processes:
        return list(processes.map(total, range(world_size)))


@pytest.mark.parametrize("world_size", range(1, 21))
def test_any_number_of_processes_has_the_bits_of_the_tree(world_size: int) -> None:
    for count in (*range(1, 19), 24, 31, 64):
        rows = random_rows(count, seed=count)
        expected = tree(list(rows))
        for total in on_many(rows, world_size):
            assert torch.equal(total, expected), count


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 7, 16])
def test_how_many_shards_are_computed_at_once_changes_no_bit(at_once: int) -> None:
    for count in range(1, 26):
        rows = random_rows(count, seed=count)
        for world_size in (1, 2, 3, 5):
            for total in on_many(rows, world_size, at_once):
                assert torch.equal(total, tree(list(rows))), (count, world_size)


def test_a_process_adds_what_it_can_before_it_sends() -> None:
    assert blocks(range(0, 8), 16) == [(0, 8)]
    assert blocks(range(3, 6), 8) == [(3, 4), (4, 6)]
    rows = [rows_sent(partition(16, n)) for n in (1, 2, 3, 4, 5, 8, 16, 20)]
    assert rows == [1, 1, 3, 1, 2, 1, 1, 1]


def test_of_one_shard_every_process_has_a_sum_of_its_own() -> None:
    rows = random_rows(1)
    for total in on_many(rows, 3):
        assert torch.equal(total, rows[0])
        total.zero_()  # As clipping may: the row that was sent is not to change.
    assert rows.any()
