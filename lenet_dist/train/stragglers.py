"""Ranks that the others have to wait for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from lenet_dist.system import Place

SLOW = 1.5
"""A rank is slow in a train line if it computed this many times longer than the others' median."""

LINES_IN_A_ROW = 5
"""As many slow lines make a slow rank: less is noise."""


class Stragglers:
    """Finds ranks that are slow line after line, and tells of each once.

    `places`: where the ranks are. `shards`: how many shards of a batch each of them computes.
    """

    def __init__(self, places: Sequence[Place], shards: Sequence[int]) -> None:
        self._places = places
        self._shards = shards
        self._slow_lines = [0] * len(shards)
        self._told: set[int] = set()

    def warnings(self, computed: Sequence[float]) -> list[str]:
        """A line for each rank found slow just now, by the seconds each computed since the last
        train line."""
        found = []
        for rank in range(len(self._shards)):
            factor = self._factor(computed, rank)
            self._slow_lines[rank] = self._slow_lines[rank] + 1 if factor > SLOW else 0
            if self._slow_lines[rank] == LINES_IN_A_ROW and rank not in self._told:
                self._told.add(rank)
                found.append(
                    f"{self._places[rank]} is slow, and the others wait for it: for"
                    f" {LINES_IN_A_ROW} train lines it has computed more than {SLOW:g} times longer"
                    f" than their median, now {factor:.1f} times (docs/wrong-machines.md)"
                )
        return found

    def _factor(self, computed: Sequence[float], rank: int) -> float:
        """How many times longer than the others' median this rank computes.

        With more shards than the others it has more to do; with fewer, the work of a step that is
        not a shard's weighs more on each. A rank is as slow as it is both in total and by shard.
        """
        others = [other for other, shards in enumerate(self._shards) if shards and other != rank]
        if not others or not self._shards[rank]:
            return 1.0
        total = computed[rank] / _median(computed[other] for other in others)
        of_shard = [seconds / max(n, 1) for seconds, n in zip(computed, self._shards, strict=True)]
        by_shard = of_shard[rank] / _median(of_shard[other] for other in others)
        return min(total, by_shard)


def _median(seconds: Iterable[float]) -> float:
    """The median, or a microsecond, as finely as they are recorded, if that is longer."""
    return max(1e-6, statistics.median(seconds))
