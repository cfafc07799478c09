"""What the preflight measured and found, as printed text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lenet_dist.files import write_atomically
from lenet_dist.preflight.findings import Finding
from lenet_dist.preflight.network import AllReduce
from lenet_dist.preflight.rank import Rank

_DEVICE_WIDTH = 20
_WHOLE = 10
"""Figures of at least this are printed without a fraction."""


@dataclass(frozen=True)
class Report:
    """Every rank's report, the all-reduces, what is wrong, and how long it took to find out.

    `slow`: the factor from which on a rank counts as slow.
    """

    ranks: list[Rank]
    all_reduces: list[AllReduce]
    findings: list[Finding]
    slow: float
    seconds: float

    def __str__(self) -> str:
        tables = [_rank_table(self.ranks)]
        if self.all_reduces:
            tables.append(_all_reduce_table(self.all_reduces))
        return "\n" + "\n\n".join([*tables, f"{self._conclusion()}\n{self.seconds:.1f} s"])

    def write(self, file: Path | None) -> None:
        """Write all of it to the file as JSON, if one is given. Raises RunFailed naming it."""
        if file is None:
            return
        content = {
            "world_size": len(self.ranks),
            "seconds": self.seconds,
            "slow_factor": self.slow,
            "ranks": [asdict(rank) for rank in self.ranks],
            "all_reduce": [asdict(row) for row in self.all_reduces],
            "findings": [asdict(finding) for finding in self.findings],
        }
        write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())

    def _conclusion(self) -> str:
        first, count = self.ranks[0], len(self.ranks)
        if self.findings:
            findings = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
            return f"{findings}; slow means {self.slow:g} times slower than the others' median"
        if count == 1:
            return "one rank: there is nothing to compare it with"
        return (
            f"all {count} ranks agree: data {str(first.data_sha256)[:16]}...,"
            f" torch {first.versions['torch']}, threads {first.threads},"
            f" commit {str(first.git_commit)[:12]};\n"
            f"none is {self.slow:g} times slower than the others' median"
        )


def _rank_table(ranks: list[Rank]) -> str:
    return _table({
        "rank": [rank.rank for rank in ranks],
        "host": [rank.host for rank in ranks],
        "device": [rank.device.removeprefix("NVIDIA ")[:_DEVICE_WIDTH] for rank in ranks],
        "driver": [rank.driver for rank in ranks],
        "free": [rank.memory_free / 1e9 for rank in ranks],
        "of GB": [rank.memory_total / 1e9 for rank in ranks],
        "cores": [rank.cores for rank in ranks],
        "GFLOP/s": [rank.gigaflops for rank in ranks],
        "link MB/s": [rank.link_mb_s for rank in ranks],
        "write MB/s": [rank.write_mb_s for rank in ranks],
    })  # fmt: skip


def _all_reduce_table(rows: list[AllReduce]) -> str:
    return _table({
        "all-reduce of bytes": [row.bytes for row in rows],
        "median us": [row.median_us for row in rows],
        "slowest rank us": [row.slowest_us for row in rows],
        "MB/s": [row.algorithm_mb_s for row in rows],
        "bus MB/s": [row.bus_mb_s for row in rows],
        "calls": [row.calls for row in rows],
    })  # fmt: skip


def _table(columns: dict[str, Sequence[int | float | str | None]]) -> str:
    """Columns by header: words to the left, numbers to the right, ``-`` for None."""
    aligned = []
    for header, values in columns.items():
        cells = [header, *map(_cell, values)]
        width = max(map(len, cells))
        is_left = any(isinstance(value, str) for value in values)
        aligned.append([cell.ljust(width) if is_left else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.2g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value
