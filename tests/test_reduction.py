"""The sum over shards: one tree, bit for bit, whoever holds which rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from lenet_dist.training.reduction import add_pairs, sum_over_shards


@pytest.fixture
def one_process(clean_environment: None) -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


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
def test_on_one_process_it_is_the_tree_over_the_rows(one_process: Accelerator, count: int) -> None:
    for seed in range(10):
        rows = random_rows(count, seed=seed)
        assert torch.equal(sum_over_shards(rows, one_process.gather), tree(list(rows)))


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


def on_many(rows: Tensor, world_size: int) -> Tensor:
    """By hand what the processes do together, each with its block of the rows."""
    blocks = list(rows.chunk(world_size))
    while len(blocks[0]) % 2 == 0:
        blocks = [add_pairs(block) for block in blocks]
    gathered = torch.cat(blocks)
    while len(gathered) > 1:
        gathered = add_pairs(gathered)
    return gathered[0]


@pytest.mark.parametrize("world_size", range(1, 17))
def test_any_number_of_processes_has_the_bits_of_one(
    one_process: Accelerator, world_size: int
) -> None:
    for shards_each in range(1, 17):
        rows = random_rows(world_size * shards_each, seed=shards_each)
        assert torch.equal(on_many(rows, world_size), sum_over_shards(rows, one_process.gather))


@pytest.mark.parametrize("shards", [6, 8, 12, 16, 24, 60, 64])
def test_every_number_of_processes_that_divides_the_shards_has_the_same_bits(shards: int) -> None:
    rows = random_rows(shards, seed=shards)
    expected = tree(list(rows))
    for world_size in range(1, shards + 1):
        if shards % world_size == 0:
            assert torch.equal(on_many(rows, world_size), expected), world_size


def test_the_sum_is_as_exact_as_a_sum_can_be(one_process: Accelerator) -> None:
    rows = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    total = sum_over_shards(rows, one_process.gather)
    torch.testing.assert_close(total, rows.double().sum(0).float(), rtol=1e-5, atol=1e-5)
