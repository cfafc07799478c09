"""The sum over shards: one tree, bit for bit, whoever holds which rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from lenet_dist.plan import deal
from lenet_dist.training.reduction import ShardSum, add_pairs, block_sum, blocks, rows_sent


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


def test_the_order_matters_for_these_rows() -> None:
    rows = random_rows(8)
    in_a_line = rows[0]
    for row in rows[1:]:
        in_a_line = in_a_line + row
    assert not torch.equal(tree(list(rows)), in_a_line)


@pytest.mark.parametrize("count", range(1, 18))
def test_a_row_without_a_partner_is_passed_on(count: int) -> None:
    rows = random_rows(count)
    level = add_pairs(rows)
    assert len(level) == (count + 1) // 2
    if count % 2:
        assert torch.equal(level[-1], rows[-1])


def on_many(rows: Tensor, world_size: int, largest: int | None = None) -> list[Tensor]:
    """The sum as each process has it: processes are threads here, with the product's own code."""
    count, dealt = len(rows), deal(len(rows), world_size)
    sent: list[Tensor] = [rows] * world_size
    barrier = threading.Barrier(world_size, timeout=60)

    def total(rank: int) -> Tensor:
        def gather(mine: Tensor) -> Tensor:
            sent[rank] = mine
            barrier.wait()
            return torch.cat(sent)

        of_all = ShardSum(dealt, rank, rows.shape[1], gather, rows.device)
        mine = blocks(dealt[rank], count, largest)
        return of_all((block, block_sum(rows[block.first : block.stop])) for block in mine)

    with ThreadPoolExecutor(world_size) as processes:
        return list(processes.map(total, range(world_size)))


@pytest.mark.parametrize("world_size", range(1, 21))
def test_any_number_of_processes_has_the_bits_of_the_tree(world_size: int) -> None:
    for count in (*range(1, 19), 24, 31, 64):
        rows = random_rows(count, seed=count)
        expected = tree(list(rows))
        for total in on_many(rows, world_size):
            assert torch.equal(total, expected), count


@pytest.mark.parametrize("largest", [1, 2, 3, 4, 7, 16])
def test_the_size_of_blocks_changes_no_bit(largest: int) -> None:
    for count in range(1, 26):
        rows = random_rows(count, seed=count)
        for world_size in (1, 2, 3, 5):
            for total in on_many(rows, world_size, largest):
                assert torch.equal(total, tree(list(rows))), (count, world_size)


@pytest.mark.parametrize("largest", [1, 2, 5, 8, None])
def test_blocks_are_all_the_shards_in_order_none_larger_than_asked(largest: int | None) -> None:
    for count in range(1, 40):
        for first in range(count):
            for stop in range(first, count + 1):
                found = blocks(range(first, stop), count, largest)
                covered = [n for block in found for n in range(block.first, block.stop)]
                assert covered == list(range(first, stop))
                assert all(block.stop - block.first <= (largest or count) for block in found)


def test_a_process_adds_what_it_can_before_it_sends() -> None:
    assert blocks(range(0, 8), 16) == [(0, 8)]
    assert blocks(range(3, 6), 8) == [(3, 4), (4, 6)]
    assert [rows_sent(deal(16, n)) for n in (1, 2, 3, 4, 5, 8, 16, 20)] == [1, 1, 3, 1, 2, 1, 1, 1]


def test_of_one_shard_every_process_has_a_sum_of_its_own() -> None:
    rows = random_rows(1)
    for total in on_many(rows, 3):
        assert torch.equal(total, rows[0])
        total.zero_()  # As clipping may: the row that was sent is not to change.
    assert rows.any()


def test_the_sum_is_as_exact_as_a_sum_can_be() -> None:
    rows = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    for total in on_many(rows, 2):
        torch.testing.assert_close(total, rows.double().sum(0).float(), rtol=1e-5, atol=1e-5)
