"""What trackers are told of a train line's ranks: who computes how long, and who waits."""

from __future__ import annotations

import statistics

from lenet_dist.run_dir.lines import Line

_MOST = 16
"""With more ranks than this, only the median and the slowest are told."""


def with_ranks(lines: list[Line], of_ranks: list[Line]) -> list[Line]:
    """The lines of metrics.jsonl, each train line with ranks.jsonl's line of its step."""
    by_step = {line["step"]: line for line in of_ranks}
    return [
        line | {"ranks": by_step[line["step"]]}
        if line["kind"] == "train" and line["step"] in by_step
        else line
        for line in lines
    ]


def numbers(line: Line) -> dict[str, float]:
    """A train line's numbers about its ranks, by name: milliseconds a step, and the slowest rank.

    None of a single process, or of a line that is told nothing of them.
    """
    of_ranks = line.get("ranks")
    if of_ranks is None or len(of_ranks["computed"]) == 1:
        return {}
    computed, waited = (
        [1e3 * seconds / of_ranks["steps"] for seconds in of_ranks[name]]
        for name in ("computed", "waited")
    )
    told = {
        "ranks/slowest": computed.index(max(computed)),
        "ranks/computed_ms/slowest": max(computed),
        "ranks/computed_ms/median": statistics.median(computed),
        "ranks/waited_ms/median": statistics.median(waited),
    }
    if len(computed) <= _MOST:
        told |= {f"ranks/computed_ms/rank_{rank}": ms for rank, ms in enumerate(computed)}
        told |= {f"ranks/waited_ms/rank_{rank}": ms for rank, ms in enumerate(waited)}
    return told
