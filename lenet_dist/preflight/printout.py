"""What the preflight found, as printed text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lenet_dist.files import write_atomically
from lenet_dist.preflight.findings import CLOCK_LIMIT_MS, Finding
from lenet_dist.preflight.network import AllReduce
from lenet_dist.preflight.rank import Rank

_DEVICE_WIDTH = 20
_WHOLE = 10
"""Figures of at least this are printed without a fraction."""


@dataclass(frozen=True)
class Report:
    """Every rank's account, the all-reduces, what is wrong, and how long it took to find out.

    `slow`: the factor from which on a rank counts as slow.
    """

    ranks: list[Rank]
    all_reduces: list[AllReduce]
    findings: list[Finding]
    slow: float
    seconds: float

    def __str__(self) -> str:
        verdict = _verdict(self.ranks, self.findings, self.slow)
        return f"\n{_tables(self.ranks, self.all_reduces)}\n\n{verdict}\n{self.seconds:.1f} s"

    def write(self, file: Path | None) -> None:
        """Write all of it to the file as JSON, if one is given. Raises RunFailed naming it."""
        if file is not None:
            write_atomically(file, (json.dumps(self._fields(), indent=1) + "\n").encode())

    def _fields(self) -> dict[str, Any]:
        return {
            "world_size": len(self.ranks),
            "seconds": self.seconds,
            "slow_factor": self.slow,
            "ranks": [asdict(rank) for rank in self.ranks],
            "all_reduce": [asdict(row) for row in self.all_reduces],
            "findings": [asdict(finding) for finding in self.findings],
        }


def _tables(ranks: list[Rank], all_reduces: list[AllReduce]) -> str:
    """A row a rank, then a row a size of all-reduce."""
    parts = [
        _table({
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
            "rename ms": [rank.rename_ms for rank in ranks],
            "clock ms": [rank.clock_ms for rank in ranks],
        })
    ]  # fmt: skip
    if all_reduces:
        parts.append(
            _table({
                "all-reduce of bytes": [row.bytes for row in all_reduces],
                "median us": [row.median_us for row in all_reduces],
                "slowest rank us": [row.slowest_us for row in all_reduces],
                "MB/s": [row.algorithm_mb_s for row in all_reduces],
                "bus MB/s": [row.bus_mb_s for row in all_reduces],
                "calls": [row.calls for row in all_reduces],
            })
        )  # fmt: skip
    return "\n\n".join(parts)


def _table(columns: dict[str, Sequence[int | float | str | None]]) -> str:
    """Columns by header: words to the left, numbers to the right, ``-`` for None."""
    aligned = []
    for header, values in columns.items():
        cells = [header, *map(_cell, values)]
        width = max(map(len, cells))
        left = any(isinstance(value, str) for value in values)
        aligned.append([cell.ljust(width) if left else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(row).rstrip() for row in zip(*aligned, strict=True))


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.2g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else value


def _verdict(ranks: list[Rank], found: list[Finding], slow: float) -> str:
    first, count = ranks[0], len(ranks)
    if found:
        findings = f"{len(found)} finding{'s' if len(found) > 1 else ''}"
        return f"{findings}; slow means {slow:g} times slower than the others' median"
    if count == 1:
        return "one rank: there is nothing to compare it with"
    return (
        f"all {count} ranks agree: data {str(first.data_sha256)[:16]}...,"
        f" torch {first.versions['torch']}, threads {first.threads},"
        f" commit {str(first.git_commit)[:12]};\n"
        f"none is {slow:g} times slower than the others' median, or has its clock more than"
        f" {CLOCK_LIMIT_MS / 1e3:g} s off"
    )
