"""Which processes computed wrong, by what most of them got."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vote:
    """The ranks that got other bits than most, or, without a majority, every rank.

    `differing` of `size` values differ, by at most `largest`.
    """

    wrong: list[int]
    is_certain: bool
    differing: int
    size: int
    largest: float


def majority_vote(results: list[list[Tensor]]) -> Vote:
    """Who is wrong, given what each rank got each time it computed the same float32 numbers [n].

    Each rank's last result is its vote. More than half of all votes are a majority; a process alone
    can have none.
    """
    by_rank = [[_bits(result) for result in own] for own in results]
    right, votes = Counter(own[-1] for own in by_rank).most_common(1)[0]
    is_certain = len(by_rank) > 1 and 2 * votes > len(by_rank)
    wrong = [rank for rank, own in enumerate(by_rank) if not is_certain or set(own) != {right}]
    everything = [result for own in results for result in own]
    reference = next(result for result in everything if _bits(result) == right)
    others = [result for result in everything if _bits(result) != right]
    assert others, "all results are equal"
    worst = max(others, key=lambda result: _differing(result, reference))
    return Vote(
        wrong=wrong,
        is_certain=is_certain,
        differing=_differing(worst, reference),
        size=reference.numel(),
        largest=float((worst.double() - reference.double()).abs().max()),
    )


def _bits(result: Tensor) -> bytes:
    return result.numpy().tobytes()


def _differing(result: Tensor, reference: Tensor) -> int:
    return int((result.view(torch.int32) != reference.view(torch.int32)).sum())
