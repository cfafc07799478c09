"""Which samples a step sees: the split, the order, and the global batches from any step on."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lenet_dist.data import sampler
from lenet_dist.plan import partition
from tests.properties import PROPERTY

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 1000)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """(images, global batch, steps): up to four epochs, the last one cut anywhere."""
    images = draw(st.integers(1, 60))
    batch_size = draw(st.integers(1, images))
    return images, batch_size, draw(st.integers(1, 4 * (images // batch_size)))


def batches(images: int, batch_size: int, first: int, last: int, seed: int = 0) -> list[list[int]]:
    """The global batches of these steps."""
    ids = torch.arange(images) * 10
    steps = sampler.GlobalBatches(
        ids, batch_size=batch_size, seed=seed, first_step=first, last_step=last
    )
    listed = [batch.tolist() for batch in steps]
    assert len(steps) == len(listed) == last - first
    return listed


@PROPERTY
@given(seed=SEEDS, images=st.integers(0, 200), data=st.data())
def test_the_split_is_disjoint_and_complete_and_has_the_sizes_asked_for(
    seed: int, images: int, data: st.DataObject
) -> None:
    validation = data.draw(st.integers(0, images))
    kept, held_out = (ids.tolist() for ids in sampler.split(seed, images, validation))
    assert sorted(kept + held_out) == list(range(images))
    assert len(held_out) == validation
    assert kept == sorted(kept) and held_out == sorted(held_out)
    again = [ids.tolist() for ids in sampler.split(seed, images, validation)]
    assert again == [kept, held_out]


@PROPERTY
@given(seed=SEEDS, epoch=EPOCHS, ids=st.lists(st.integers(0, 10**6), unique=True, max_size=200))
def test_the_order_is_a_permutation_of_the_ids(seed: int, epoch: int, ids: list[int]) -> None:
    ordered = sampler.order(seed, epoch, torch.tensor(ids, dtype=torch.int64))
    assert sorted(ordered.tolist()) == sorted(ids)


@PROPERTY
@given(sizes=sizes(), seed=SEEDS)
def test_every_batch_is_whole_and_an_epoch_has_no_id_twice(
    sizes: tuple[int, int, int], seed: int
) -> None:
    images, batch_size, total = sizes
    whole = batches(images, batch_size, 0, total, seed)
    assert all(len(batch) == batch_size for batch in whole)
    steps_per_epoch = images // batch_size
    for start in range(0, total, steps_per_epoch):
        seen = list(chain(*whole[start : start + steps_per_epoch]))
        assert len(seen) == len(set(seen))
        assert set(seen) <= {10 * number for number in range(images)}


def test_an_epoch_follows_the_order_of_its_seed_and_number() -> None:
    ids = torch.arange(10) * 10
    third_epoch = batches(10, 3, 6, 9, seed=5)
    assert list(chain(*third_epoch)) == sampler.order(5, 2, ids).tolist()[:9]


@PROPERTY
@given(world_size=st.integers(1, 8), shards=st.integers(1, 9), size=st.integers(1, 4))
def test_shares_that_differ_are_in_order_with_padding_at_their_ends(
    world_size: int, shards: int, size: int
) -> None:
    batch_size = shards * size
    steps = sampler.GlobalBatches(
        torch.arange(2 * batch_size), batch_size=batch_size, seed=3, first_step=0, last_step=5
    )
    shares = [len(by_rank) * size for by_rank in partition(shards, world_size)]
    padded: Any = sampler.PartitionedBatches(steps, shares)
    assert len(padded) == 5
    by_rank: list[list[Tensor]] = [
        list(BatchSamplerShard(padded, world_size, rank, split_batches=True, even_batches=False))
        for rank in range(world_size)
    ]
    for batch, *parts in zip(steps, *by_rank, strict=True):
        real = [part[:share] for part, share in zip(parts, shares, strict=True)]
        assert torch.equal(torch.cat(real), batch)
        empty = [part[share:] for part, share in zip(parts, shares, strict=True)]
        assert torch.cat(empty).eq(0).all()
        assert len({len(part) for part in parts}) == 1
