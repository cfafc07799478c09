"""Every rank's report on itself, collected on all ranks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from lenet_dist import system
from lenet_dist.config import Config, config_hash
from lenet_dist.data import dataset, fetch
from lenet_dist.distributed.accelerator import auto_threads, meet, on_each_that_can, say
from lenet_dist.exits import RequestError
from lenet_dist.kernels import native
from lenet_dist.preflight import disk, network
from lenet_dist.preflight.device import measure_gigaflops, memory, model_name
from lenet_dist.preflight.network import AllReduce
from lenet_dist.preflight.rank import DATA, Rank, environment
from lenet_dist.preflight.single_rank import ShortTraining

T = TypeVar("T")


class Collector:
    """Measures every rank, step by step; each step is a collective."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        self.config = config
        self.accelerator = accelerator
        self.hosts: list[str] = gather_object([socket.gethostname()])
        self.failures: dict[str, str] = {}

    def all_reduces(self) -> list[AllReduce]:
        """Latency and bandwidth by size of message."""
        self._announce("all-reduce")
        return network.all_reduces(self.accelerator)

    def ranks(self) -> list[Rank]:
        """Every rank's report, in order. Raises only what fails on every rank."""
        accelerator, compute = self.accelerator, self.config.compute
        device, rank = accelerator.device, accelerator.process_index
        threads = auto_threads() if compute.threads == "auto" else compute.threads
        torch.set_num_threads(threads)
        data_sha256 = self._data_sha256()
        write_mb_s = self._write_speed()
        self._announce("compute")
        meet(accelerator)
        gigaflops = measure_gigaflops(device)
        self._announce("links")
        link_mb_s = network.link_speed(accelerator, self.hosts)
        self._announce("a short training, each rank alone")
        # By rank 0's config: another one on some rank is a finding of its own.
        config = broadcast_object_list([self.config])[0]
        training = ShortTraining(config, accelerator)
        weights_sha256, again = training.weights_sha256(), training.weights_sha256()
        if training.is_captured:
            self._announce("a captured step")
            self._attempt("CUDA graph", training.replay_a_step)
        free, total = memory(device)
        report = Rank(
            rank=rank,
            host=self.hosts[rank],
            local_rank=accelerator.local_process_index,
            device=model_name(device),
            driver=system.gpu_driver() if device.type == "cuda" else None,
            memory_free=free,
            memory_total=total,
            cores=system.cores(),
            threads=threads,
            kernels=native.variant() or "torch",
            versions=system.versions(),
            git_commit=system.git_commit(),
            config_hash=config_hash(self.config),
            data_sha256=data_sha256,
            run_root=str(Path(self.config.run.root).resolve()),
            environment=environment(),
            gigaflops=gigaflops,
            link_mb_s=link_mb_s,
            write_mb_s=write_mb_s,
            weights_sha256=weights_sha256,
            repeats=weights_sha256 == again,
            failures=self.failures,
        )
        return gather_object([report])

    def _data_sha256(self) -> str | None:
        """The hash of the data, once every byte has been read here and found right."""
        data, fetches = self.config.data, self.accelerator.is_local_main_process

        def read() -> str:
            if failure := self.failures.get(DATA):
                raise RequestError(failure)
            for split in get_args(dataset.Split):
                dataset.load(data, split)
            return dataset.data_hash(data)

        self._announce("data")
        self._attempt(DATA, lambda: fetch.ensure(data) if fetches else None)
        return self._attempt(DATA, read)

    def _write_speed(self) -> float | None:
        """MB/s of writes to run.root in each node's first process; checks that all have one."""
        self._announce("run.root")
        root, is_main = Path(self.config.run.root), self.accelerator.is_main_process
        with ExitStack() as stack:
            is_there = self._attempt("run.root", lambda: stack.enter_context(disk.run_root(root)))
            # Removes the token before the disk is measured, and so before the folder is removed.
            with ExitStack() as held:
                leaves = is_there and is_main
                token = self._attempt(
                    "run.root", lambda: held.enter_context(disk.token(root)) if leaves else None
                )
                token = broadcast_object_list([token])[0]
                looks = is_there and token and not is_main
                self._attempt("run.root", lambda: disk.find_token(root, *token) if looks else None)
            writes = is_there and self.accelerator.is_local_main_process
            return self._attempt("disk", lambda: disk.write_speed(root) if writes else None)

    def _announce(self, step: str) -> None:
        say(self.accelerator, f"preflight: {step}")

    def _attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """Take a step on every rank. If it fails on some but not all, these ranks have failed."""
        value, errors = on_each_that_can(action)
        if error := errors[self.accelerator.process_index]:
            self.failures.setdefault(what, str(error))
        return value
