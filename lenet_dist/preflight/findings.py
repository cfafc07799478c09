"""What is wrong with a job's processes, found by comparing them with each other."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

from lenet_dist.preflight.rank import Rank

_LONGEST_VALUE = 48
_RATES = (
    ("compute", "gigaflops", "GFLOP/s"),
    ("link", "link_mb_s", "MB/s"),
    ("disk write", "write_mb_s", "MB/s"),
)
"""A rate's name, its field of Rank, and its unit."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: on which ranks, what, and a line that says it all."""

    ranks: list[int]
    what: str
    text: str


def findings(ranks: list[Rank], slow: float) -> list[Finding]:
    """Everything that is wrong with these ranks, which come in order of their numbers.

    `slow`: a rank is slow if its rate times this is less than the median of the other ranks'.
    """
    failures = [
        _finding([rank], what, reason) for rank in ranks for what, reason in rank.failures.items()
    ]
    return [*failures, *differences(ranks), *_other_bits(ranks), *_slow_ranks(ranks, slow)]


def differences(ranks: list[Rank]) -> list[Finding]:
    """The facts that differ between ranks; most ranks are right, or the first ones in a tie."""
    facts = {rank.rank: rank.facts() for rank in ranks}
    findings = []
    for name in dict.fromkeys(name for names in facts.values() for name in names):
        # A rank that could not get at a fact has a finding for that already.
        values = [(rank, facts[rank.rank].get(name)) for rank in ranks if name not in rank.failures]
        right, _ = Counter(value for _, value in values).most_common(1)[0]  # In a tie, the first.
        example = next(rank for rank, value in values if value == right)
        for wrong in dict.fromkeys(value for _, value in values if value != right):
            text = f"{_shown(wrong)} here, {_shown(right)} on {example}"
            findings.append(_finding([r for r, value in values if value == wrong], name, text))
    return findings


def _other_bits(ranks: list[Rank]) -> list[Finding]:
    """The ranks that compute other bits than most, or not the same ones twice, with the likely
    reason."""
    right, count = Counter(rank.weights_sha256 for rank in ranks).most_common(1)[0]
    example = next(rank for rank in ranks if rank.weights_sha256 == right)
    findings = []
    for rank in ranks:
        if not rank.repeats:
            text = f"{rank} does not compute the same bits twice: suspect its processor or memory"
        elif rank.weights_sha256 != right:
            others = f"the other {count}" if count > 1 else str(example)
            text = f"{rank} computes different bits than {others}: {_reason(rank, example)}"
        else:
            continue
        findings.append(Finding([rank.rank], "bits", text))
    return findings


def _reason(wrong: Rank, right: Rank) -> str:
    here, there = wrong.computes_by(), right.computes_by()
    differing = [
        f"{name} ({_shown(here.get(name))} here, {_shown(there.get(name))} there)"
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]
    if not differing:
        return "nothing that decides bits differs, so suspect its processor or memory"
    return f"likely because of {' and '.join(differing)}"


def _slow_ranks(ranks: list[Rank], slow: float) -> list[Finding]:
    """The ranks that are slow against the median of the others, in each rate they measured."""
    findings = []
    for what, field, unit in _RATES:
        rates = [(rank, getattr(rank, field)) for rank in ranks if getattr(rank, field) is not None]
        for rank, rate in rates:
            others = [value for other, value in rates if other is not rank]
            if others and rate * slow < (median := statistics.median(others)):
                times = f"{median / rate:.1f} times" if rate else "infinitely"
                text = f"{rate:,.3g} {unit}, {times} slower than the others' median of"
                findings.append(_finding([rank], what, f"{text} {median:,.3g}"))
    return findings


def _finding(ranks: list[Rank], what: str, text: str) -> Finding:
    names = ", ".join(map(str, ranks))
    return Finding([rank.rank for rank in ranks], what, f"{names}: {what}: {text}")


def _shown(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:16]}..."
