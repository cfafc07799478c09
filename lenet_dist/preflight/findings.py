"""What is wrong with a job's processes, found by comparing them with each other."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lenet_dist.preflight.rank import Rank

CLOCK_LIMIT_MS = 1_000.0
"""A clock that is off by more than this, beyond the measurement's error, is a finding."""

_FAST_RENAME_MS = 10.0
"""A rename that takes no longer is fast enough: differences below this are noise."""

_LONGEST_VALUE = 48


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: on which ranks, what, and a line that says it all."""

    ranks: list[int]
    what: str
    text: str


@dataclass(frozen=True)
class _Rate:
    what: str
    unit: str
    value: Callable[[Rank], float | None]


_RATES = (
    _Rate("compute", "GFLOP/s", lambda rank: rank.gigaflops),
    _Rate("link", "MB/s", lambda rank: rank.link_mb_s),
    _Rate("disk write", "MB/s", lambda rank: rank.write_mb_s),
    _Rate(
        "disk rename", "renames/s",
        lambda rank: rank.rename_ms and 1_000 / max(rank.rename_ms, _FAST_RENAME_MS),
    ),
)  # fmt: skip


def findings(ranks: list[Rank], slow: float) -> list[Finding]:
    """Everything that is wrong with these ranks, which come in order of their numbers.

    `slow`: a rank is slow if its rate times this is less than the median of the other ranks'.
    """
    failures = [
        _finding([rank], what, reason) for rank in ranks for what, reason in rank.failures.items()
    ]
    return [
        *failures, *differences(ranks), *other_bits(ranks), *slow_ranks(ranks, slow),
        *wrong_clocks(ranks),
    ]  # fmt: skip


def differences(ranks: list[Rank]) -> list[Finding]:
    """The facts that differ between ranks; most ranks are right, or the first ones in a tie."""
    facts = [rank.facts() for rank in ranks]
    found = []
    for name in dict.fromkeys(name for each in facts for name in each):
        # A rank that could not get at a fact has a finding for that already.
        have = [
            (rank, each.get(name))
            for rank, each in zip(ranks, facts, strict=True)
            if name not in rank.failures
        ]
        right, _ = Counter(value for _, value in have).most_common(1)[0]  # In a tie, the first.
        example = next(rank for rank, value in have if value == right)
        for wrong in dict.fromkeys(value for _, value in have if value != right):
            text = f"{_shown(wrong)} here, {_shown(right)} on {example}"
            found.append(_finding([rank for rank, value in have if value == wrong], name, text))
    return found


def other_bits(ranks: list[Rank]) -> list[Finding]:
    """The ranks that compute other bits than most, or not the same ones twice, with the likely
    reason."""
    right, count = Counter(rank.weights_sha256 for rank in ranks).most_common(1)[0]
    example = next(rank for rank in ranks if rank.weights_sha256 == right)
    found = []
    for rank in ranks:
        if not rank.repeats:
            text = f"{rank} does not compute the same bits twice: suspect its processor or memory"
        elif rank.weights_sha256 != right:
            others = f"the other {count}" if count > 1 else str(example)
            text = f"{rank} computes different bits than {others}: {_reason(rank, example)}"
        else:
            continue
        found.append(Finding([rank.rank], "bits", text))
    return found


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


def slow_ranks(ranks: list[Rank], slow: float) -> list[Finding]:
    """The ranks that are slow against the median of the others, in each rate they measured."""
    found = []
    for rate in _RATES:
        values = {rank.rank: value for rank in ranks if (value := rate.value(rank)) is not None}
        for rank in ranks:
            others = [value for number, value in values.items() if number != rank.rank]
            if rank.rank not in values or not others:
                continue
            mine, median = values[rank.rank], statistics.median(others)
            if mine * slow < median:
                times = f"{median / mine:.1f} times" if mine else "infinitely"
                text = (
                    f"{mine:,.3g} {rate.unit}, {times} slower than the others'"
                    f" median of {median:,.3g}"
                )
                found.append(_finding([rank], rate.what, text))
    return found


def wrong_clocks(ranks: list[Rank]) -> list[Finding]:
    """The nodes whose clock is off from the median (or rank 0's), each by its first rank."""
    first = [rank for rank in ranks if rank.local_rank == 0]
    # With two clocks nothing tells which is right: rank 0's is taken.
    right = statistics.median(rank.clock_ms for rank in first) if len(first) > 2 else 0.0
    found = []
    for rank in first:
        off = rank.clock_ms - right
        if abs(off) - rank.clock_error_ms > CLOCK_LIMIT_MS:
            direction = "ahead of" if off > 0 else "behind"
            found.append(
                _finding([rank], "clock", f"{abs(off) / 1e3:,.1f} s {direction} the others")
            )
    return found


def _finding(ranks: list[Rank], what: str, text: str) -> Finding:
    names = ", ".join(map(str, ranks))
    return Finding([rank.rank for rank in ranks], what, f"{names}: {what}: {text}")


def _shown(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:16]}..."
