"""The random numbers: SplitMix64 as published, read at any position."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet_dist.data import counter
from tests.properties import PROPERTY

WORD = 2**64
SEEDS = st.integers(0, WORD - 1)
PUBLISHED_SEED = 1234567
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The first outputs for that seed, as other implementations publish them."""


def splitmix64(seed: int, count: int) -> list[int]:
    """The generator as in its paper, one state and one number after the other."""
    outputs, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        outputs.append(z ^ (z >> 31))
    return outputs


def unsigned(words: torch.Tensor) -> list[int]:
    return [word % WORD for word in words.tolist()]


def test_the_bits_are_those_that_are_published_for_splitmix64() -> None:
    assert unsigned(counter.bits(PUBLISHED_SEED, torch.arange(5))) == PUBLISHED
    assert splitmix64(PUBLISHED_SEED, 5) == PUBLISHED


@PROPERTY
@given(seed=SEEDS, count=st.integers(1, 50))
def test_reading_by_position_gives_the_sequence(seed: int, count: int) -> None:
    assert unsigned(counter.bits(seed, torch.arange(count))) == splitmix64(seed, count)


NAMES = st.lists(st.integers(0, 2**63 - 1) | st.text(max_size=8), min_size=1, max_size=3)


@PROPERTY
@given(first=NAMES, second=NAMES)
def test_streams_with_other_names_differ_and_with_the_same_name_do_not(
    first: list[int | str], second: list[int | str]
) -> None:
    assert counter.stream(*first) == counter.stream(*first)
    assert (counter.stream(*first) == counter.stream(*second)) == (first == second)
