"""Rows of many shards at once: the bits of one by one, for every size of a shard."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lenet_dist.data import dataset
from lenet_dist.model import lenet5
from lenet_dist.request import load
from lenet_dist.training.rows import ByHand, is_bit_equal, one_by_one

AT_ONCE = (2, 7)
MOST_IMAGES = 512


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_hand() -> ByHand:
    """Of weights that have been trained a little: at the beginning much is alike."""
    config = load(None, ["model.mean=0.13", "model.std=0.31"])
    model = lenet5.build(1, 0.13, 0.31)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    images, labels = samples(512)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return ByHand(model, config.train)


def samples(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    images, chosen = all_images(), slice(first, first + count)
    return dataset.pixels(images.images[chosen]), images.labels[chosen]


@functools.cache
def all_images() -> dataset.Images:
    return dataset.synthetic("train")


@pytest.mark.parametrize("tens", range(0, 260, 10))
def test_many_shards_at_once_have_the_bits_of_one_by_one(
    by_hand: ByHand, tens: int, threads: None
) -> None:
    for size in range(max(1, tens), min(tens + 9, 256) + 1):
        numbers = [shards for shards in AT_ONCE if shards * size <= MOST_IMAGES]
        images, labels = samples(numbers[-1] * size, first=size)
        torch.set_num_threads(1)
        alone = one_by_one(by_hand)(images, labels, numbers[-1])
        for shards, count in itertools.product(numbers, (1, 2)):
            torch.set_num_threads(count)
            together = by_hand(images[: shards * size], labels[: shards * size], shards)
            equal = together.view(torch.int32) == alone[:shards].view(torch.int32)
            assert equal.all(), (size, shards, count)


def test_a_shard_has_the_same_bits_on_any_number_of_threads(by_hand: ByHand, threads: None) -> None:
    for size in (1, 4, 8, 16, 33, 64, 128):
        for shards in (1, 2, 4):
            images, labels = samples(shards * size)
            torch.set_num_threads(1)
            expected = by_hand(images, labels, shards)
            for count in (2, 3, 5, 8, 16):
                torch.set_num_threads(count)
                assert torch.equal(by_hand(images, labels, shards), expected), (size, shards, count)


def test_a_kernel_that_depends_on_the_number_of_images_is_noticed() -> None:
    class Dependent(ByHand):
        def __call__(self, inputs: Tensor, labels: Tensor, shards: int = 1) -> Tensor:
            rows = super().__call__(inputs, labels, shards).clone()
            if shards > 1:
                rows[-1, -3] = torch.nextafter(rows[-1, -3], torch.tensor(torch.inf))
            return rows

    config = load()
    images, labels = samples(64)
    model = lenet5.build(0, 0.0, 1.0)
    assert is_bit_equal(ByHand(model, config.train), images, labels, 4)
    assert not is_bit_equal(Dependent(model, config.train), images, labels, 4)


def test_all_images_as_one_shard_have_the_sums_of_the_shards(by_hand: ByHand) -> None:
    images, labels = samples(64)
    whole = by_hand.of_all(images, labels)[0]
    torch.testing.assert_close(by_hand(images, labels, 8).sum(0), whole, rtol=1e-4, atol=1e-6)
    separate = one_by_one(by_hand)(images, labels, 8)
    assert torch.equal(separate, by_hand(images, labels, 8))
