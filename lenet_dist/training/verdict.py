"""Which processes computed wrong, by what most of them got."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """The ranks that got other bits than most, or, without a majority, every rank.

    `differing` of `size` values differ, by at most `largest`.
    """

    wrong: list[int]
    is_certain: bool
    differing: int
    size: int
    largest: float


def judge(claims: list[list[Tensor]]) -> Verdict:
    """Who is wrong, given what each rank got each time it computed the same float32 numbers [n].

    Each rank's last result is its vote. More than half of all votes are a majority; a process alone
    can have none.
    """
    ballots = [[_bits(claim) for claim in own] for own in claims]
    right, votes = Counter(own[-1] for own in ballots).most_common(1)[0]
    is_certain = len(ballots) > 1 and 2 * votes > len(ballots)
    wrong = [rank for rank, own in enumerate(ballots) if not is_certain or set(own) != {right}]
    everything = [claim for own in claims for claim in own]
    reference = next(claim for claim in everything if _bits(claim) == right)
    others = [claim for claim in everything if _bits(claim) != right]
    assert others, "there is nothing to judge"
    worst = max(others, key=lambda claim: _differing(claim, reference))
    return Verdict(
        wrong=wrong,
        is_certain=is_certain,
        differing=_differing(worst, reference),
        size=reference.numel(),
        largest=float((worst.double() - reference.double()).abs().max()),
    )


def _bits(claim: Tensor) -> bytes:
    return claim.numpy().tobytes()


def _differing(claim: Tensor, reference: Tensor) -> int:
    return int((claim.view(torch.int32) != reference.view(torch.int32)).sum())
