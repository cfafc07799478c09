"""Check the machines before a run: is every process there, alike, and as fast as the others?

    srun -N2 python -m lenet_dist.preflight [--config FILE] [--json FILE] [key=value ...]
    accelerate launch -m lenet_dist.preflight
    torchrun --nproc-per-node N -m lenet_dist.preflight

Start it as the run is to be started, with the run's own config. Exit code 0: all is well; 1: what
differs, fails or is slow, with the rank's name; 2: the request is wrong. docs/preflight.md says
what each figure means.
"""

from __future__ import annotations

import json
import math
import socket
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from lenet_dist import config as configuration
from lenet_dist import exits
from lenet_dist.config import Config
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import write_atomically

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lenet_dist.runtime.findings import Finding
    from lenet_dist.runtime.network import AllReduce
    from lenet_dist.runtime.rank import Rank

T = TypeVar("T")

_DEVICE_WIDTH = 20
_WHOLE = 10
"""From here on a figure is printed without its fraction."""
_SLOW = 3.0
_MESSAGE_BYTES = (4, 4 * 2**10, 2**20, 16 * 2**20, 64 * 2**20)
"""All-reduces measured, besides one of the model's gradient."""


def main(arguments: list[str]) -> None:
    """Check as asked. Imports of weight come late: --help is quick."""
    started = time.monotonic()
    parser = exits.ArgumentParser(
        prog="lenet_dist.preflight",
        description=__doc__,
        epilog="keys, each set by key=value:\n" + configuration.describe_keys(),
    )
    parser.add_argument("--config", metavar="FILE", help="the run's config")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything there too")
    parser.add_argument(
        "--slow", metavar="FACTOR", type=float, default=_SLOW,
        help="slow is by this factor slower than the median of the others (default %(default)g)",
    )  # fmt: skip
    request, overrides = parser.parse_with_overrides(arguments)
    if not (math.isfinite(request.slow) and request.slow > 1):
        raise RequestError(f"--slow {request.slow:g}: must be a number above 1")
    config = configuration.load(request.config, overrides)
    from lenet_dist.runtime import slurm

    slurm.adopt_ranks()
    _preflight(config, request, started)


def _preflight(config: Config, request: Namespace, started: float) -> None:
    from lenet_dist.runtime import accelerator as accelerators
    from lenet_dist.runtime.findings import findings

    accelerator = accelerators.start(config.compute)
    with accelerators.peer_watch(config.compute.timeout_seconds):
        accelerators.on_main(accelerator, lambda: _check_writable(request.json))
        inspection = _Inspection(config, accelerator)
        ranks, all_reduces = inspection.ranks(), inspection.all_reduces()
        found = findings(ranks, request.slow)
        seconds = time.monotonic() - started
        accelerators.say(accelerator, f"\n{_tables(ranks, all_reduces)}\n")
        accelerators.say(accelerator, f"{_verdict(ranks, found, request.slow)}\n{seconds:.1f} s")
        report = {
            "world_size": len(ranks),
            "seconds": seconds,
            "slow_factor": request.slow,
            "ranks": [asdict(rank) for rank in ranks],
            "all_reduce": [asdict(row) for row in all_reduces],
            "findings": [asdict(finding) for finding in found],
        }
        accelerators.on_main(accelerator, lambda: _write_json(request.json, report))
    if found:
        raise RunFailed("\n        ".join(finding.text for finding in found))
    accelerator.end_training()


class _Inspection:
    """What every rank has to say, step by step; each step is a collective."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        from accelerate.utils import gather_object

        self.config = config
        self.accelerator = accelerator
        self.hosts: list[str] = gather_object([socket.gethostname()])
        self.failures: dict[str, str] = {}

    def _say(self, step: str) -> None:
        from lenet_dist.runtime.accelerator import say

        say(self.accelerator, f"preflight: {step}")

    def all_reduces(self) -> list[AllReduce]:
        """Latency and bandwidth by size of message."""
        from lenet_dist.model import lenet5
        from lenet_dist.runtime import network

        self._say("all-reduce")
        sizes = sorted((*_MESSAGE_BYTES, lenet5.PARAMETERS * 4))
        return network.all_reduces(self.accelerator, sizes)

    def ranks(self) -> list[Rank]:
        """Every rank's account of itself, in order. Raises what fails on all of them alike."""
        import torch
        from accelerate.utils import gather_object

        from lenet_dist.runtime import device as devices
        from lenet_dist.runtime import hardware, network
        from lenet_dist.runtime.accelerator import auto_threads, meet
        from lenet_dist.runtime.rank import Rank, network_environment
        from lenet_dist.runtime.versions import git_commit, versions

        accelerator, compute = self.accelerator, self.config.compute
        device, me = accelerator.device, accelerator.process_index
        threads = auto_threads() if compute.threads == "auto" else compute.threads
        torch.set_num_threads(threads)
        data_sha256 = self._data_sha256()
        write_mb_s, rename_ms = self._run_root()
        self._say("compute")
        meet(accelerator)
        gigaflops = devices.gigaflops(device)
        self._say("links and clocks")
        link_mb_s = network.link_speed(accelerator, self.hosts)
        offsets, clock_error_ms = network.clock_offsets(accelerator)
        free, total = devices.memory(device) or (None, None)
        host_memory = hardware.memory()
        mine = Rank(
            rank=me,
            host=self.hosts[me],
            local_rank=accelerator.local_process_index,
            device=devices.model_name(device),
            driver=hardware.gpu_driver() if device.type == "cuda" else None,
            memory_free=free,
            memory_total=total,
            host_memory_free=host_memory[0] if host_memory else None,
            cores=hardware.cores(),
            threads=threads,
            versions=versions(),
            git_commit=git_commit(),
            config_hash=configuration.config_hash(self.config),
            data_sha256=data_sha256,
            run_root=str(Path(self.config.run.root).resolve()),
            environment=network_environment(),
            gigaflops=gigaflops,
            link_mb_s=link_mb_s,
            write_mb_s=write_mb_s,
            rename_ms=rename_ms,
            clock_ms=offsets[me],
            clock_error_ms=clock_error_ms,
            failures=self.failures,
        )
        return gather_object([mine])

    def _data_sha256(self) -> str | None:
        from lenet_dist.data import dataset, fetch
        from lenet_dist.runtime.rank import DATA

        data, fetches = self.config.data, self.accelerator.is_local_main_process

        def read() -> str:
            """The hash of the whole, once every byte has been read here and found right."""
            if failure := self.failures.get(DATA):
                raise RequestError(failure)
            for split in get_args(dataset.Split):
                dataset.load(data, split)
            return dataset.data_hash(data)

        self._say("data")
        self._attempt(DATA, lambda: fetch.ensure(data) if fetches else None)
        return self._attempt(DATA, read)

    def _run_root(self) -> tuple[float | None, float | None]:
        """MB/s of writes and milliseconds of a rename, in each node's first process."""
        from accelerate.utils import broadcast_object_list

        from lenet_dist.runtime import disk

        self._say("run.root")
        root, is_main = Path(self.config.run.root), self.accelerator.is_main_process
        with ExitStack() as stack:
            is_lent = self._attempt("run.root", lambda: stack.enter_context(disk.lent(root)))
            # Removed from the folder before the disk's turn, and so before the folder is.
            with ExitStack() as held:
                leaves = is_lent and is_main
                token = self._attempt(
                    "run.root", lambda: held.enter_context(disk.token(root)) if leaves else None
                )
                token = broadcast_object_list([token])[0]
                looks = is_lent and token and not is_main
                self._attempt("run.root", lambda: disk.find_token(root, *token) if looks else None)
            writes = is_lent and self.accelerator.is_local_main_process
            write = self._attempt("disk", lambda: disk.write_speed(root) if writes else None)
            rename = self._attempt(
                "disk", lambda: disk.rename_milliseconds(root) if writes else None
            )
        return write, rename

    def _attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """Do it on every rank. Where it fails, but not on all, that is the rank's failure."""
        from lenet_dist.runtime.accelerator import on_each_that_can

        value, errors = on_each_that_can(self.accelerator, action)
        if error := errors[self.accelerator.process_index]:
            self.failures.setdefault(what, str(error))
        return value


def _check_writable(file: Path | None) -> None:
    """Raises RequestError if the file could not be written, which is better known before."""
    if file is None:
        return
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise RequestError(f"--json {file}: can't write there: {error.strerror}") from None
    if file.is_dir():
        raise RequestError(f"--json {file}: a folder; name a file")


def _write_json(file: Path | None, report: dict[str, object]) -> None:
    if file is not None:
        write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())


def _tables(ranks: list[Rank], all_reduces: list[AllReduce]) -> str:
    """A row a rank, then a row a size of all-reduce."""
    tables = [
        _table({
            "rank": [rank.rank for rank in ranks],
            "host": [rank.host for rank in ranks],
            "device": [rank.device.removeprefix("NVIDIA ")[:_DEVICE_WIDTH] for rank in ranks],
            "driver": [rank.driver for rank in ranks],
            "free": [rank.memory_free and rank.memory_free / 1e9 for rank in ranks],
            "of GB": [rank.memory_total and rank.memory_total / 1e9 for rank in ranks],
            "cores": [rank.cores for rank in ranks],
            "GFLOP/s": [rank.gigaflops for rank in ranks],
            "link MB/s": [rank.link_mb_s for rank in ranks],
            "write MB/s": [rank.write_mb_s for rank in ranks],
            "rename ms": [rank.rename_ms for rank in ranks],
            "clock ms": [rank.clock_ms for rank in ranks],
        })
    ]  # fmt: skip
    if all_reduces:
        tables.append(
            _table({
                "all-reduce of bytes": [row.bytes for row in all_reduces],
                "median us": [row.median_us for row in all_reduces],
                "slowest rank us": [row.slowest_us for row in all_reduces],
                "MB/s": [row.algorithm_mb_s for row in all_reduces],
                "bus MB/s": [row.bus_mb_s for row in all_reduces],
                "calls": [row.calls for row in all_reduces],
            })
        )  # fmt: skip
    return "\n\n".join(tables)


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
    from lenet_dist.runtime.findings import CLOCK_LIMIT_MS

    first, count = ranks[0], len(ranks)
    if found:
        findings = f"{len(found)} finding{'s' if len(found) > 1 else ''}"
        return f"{findings}; slow means {slow:g} times slower than the others' median"
    if count == 1:
        return "one rank: there is nothing to compare it with"
    return (
        f"all {count} ranks agree: data {str(first.data_sha256)[:16]}...,"
        f" torch {first.versions['torch']}, {first.threads} threads,"
        f" commit {str(first.git_commit)[:12]};\n"
        f"none is {slow:g} times slower than the others' median, or has its clock more than"
        f" {CLOCK_LIMIT_MS / 1e3:g} s off"
    )


if __name__ == "__main__":
    exits.run(main)
