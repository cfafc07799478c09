"""Jobs as real processes: started, watched, hurt and waited for."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.outcome import checkpoint_steps, has_line

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

_FORKSERVER = multiprocessing.get_context("forkserver")

_PORTS = itertools.count(os.getpid())

PATIENCE = 300
"""Seconds to wait for what must come, on however slow a machine, where no promise names a time."""

SMALL = (
    "data.name=synthetic",
    "data.validation=9500",
    "train.batch_size=64",
    "train.max_steps=60",
    "train.clip_norm=1",
    "augment.shear=0.1",
    "augment.elastic=0.05",
    "augment.fade=0.5",
    "compute.threads=1",
    "compute.timeout_seconds=600",
    "compute.audit_every=20",
    "checkpoint.every_steps=10",
    "log.every_steps=7",
    "log.report=false",
    "wandb.mode=disabled",
)
"""A run of 60 steps, a bit more than one and a half epochs of 39, with every part switched on."""

TRAIN_STEPS = [7, 14, 21, 28, 35, 42, 49, 56, 60]
"""The steps of SMALL's train lines."""

ONE_EPOCH = ("train.max_steps=42", "evaluate.every_epochs=2")
"""A bit more than one epoch of SMALL, validated at its end alone."""

BY_TORCH = ("compute.kernels=torch", *ONE_EPOCH)
"""ONE_EPOCH without the native kernel, which takes several times as long."""


class Rank:
    """One process of a job. `errors`: where its stderr goes, if not to `output` too."""

    def __init__(
        self, module: str, arguments: list[str], environment: dict[str, str], output: Path,
        errors: Path | None = None,
    ) -> None:  # fmt: skip
        self.output = output
        files = (str(output), str(errors or output))
        self.process = fork(_be_a_rank, module, arguments, environment, files, str(ROOT))

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if self.process.pid is not None and self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, negative for a signal. Fails if the process is still there after that."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"still running after {seconds} s:\n{self.text()}"
        return code

    def has_ended(self) -> bool:
        return self.process.exitcode is not None

    def text(self) -> str:
        """What it has printed so far, stdout and stderr."""
        return self.output.read_text() if self.output.exists() else ""


def fork(function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Call it in a process of its own, without the seconds that imports take.

    It is forked from a server that has torch imported and has computed nothing. Launchers get their
    own tests.
    """
    # The first process of a pytest worker starts its server, which others use too.
    _FORKSERVER.set_forkserver_preload(["tests.preloaded"])
    process = _FORKSERVER.Process(target=function, args=arguments)
    process.start()
    return process


def _be_a_rank(
    module: str, arguments: list[str], environment: dict[str, str], files: tuple[str, str],
    folder: str,
) -> None:  # fmt: skip
    for standard, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), standard)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    from lenet_dist import exits

    sys.argv = [module, *arguments]
    name, _, function = module.partition(":")
    exits.run(getattr(importlib.import_module(name), function or "main"))


class Job:
    """A job's processes and its run directory."""

    def __init__(self, ranks: list[Rank], directory: Path) -> None:
        self.ranks = ranks
        self.directory = directory

    @property
    def main(self) -> Rank:
        return self.ranks[0]

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """The exit codes of all ranks."""
        deadline = time.monotonic() + seconds
        return [rank.wait(max(0.1, deadline - time.monotonic())) for rank in self.ranks]

    def expect(self, code: int, seconds: float = PATIENCE) -> Job:
        """Wait for all ranks to end with this exit code, and never by a traceback."""
        codes = self.wait(seconds)
        assert codes == [code] * len(codes), f"{codes}\n{self.text()}"
        assert "Traceback" not in self.text()
        return self

    def text(self) -> str:
        return "\n".join(rank.text() for rank in self.ranks)

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something is so; fails if the job ends before, or it takes longer."""
        wait_until(
            condition, self.text, seconds, 0.005, lambda: all(map(Rank.has_ended, self.ranks))
        )

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl has a line of this step or a later one."""
        self.until(lambda: has_line(self.directory, step))

    def until_checkpoint(self, step: int) -> None:
        """Wait until there is a checkpoint of this step."""
        self.until(lambda: step in checkpoint_steps(self.directory))

    def stop_at(self, step: int) -> Job:
        """Ask it to stop once it has a line of this step, and have it stop so that it can go on."""
        # Where the last start went further than asked, there is a line before this one listens.
        self.until(lambda: has_line(self.directory, step) and "global batch" in self.main.text())
        self.main.send(signal.SIGTERM)
        return self.expect(75)

    def kill_at(self, step: int) -> None:
        """Kill all ranks once it has a line of this step."""
        self.until_step(step)
        for rank in self.ranks:
            rank.send(signal.SIGKILL)
        self.wait()


class Jobs:
    """Starts jobs whose runs lie under one folder, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ranks: list[Rank] = []

    def start(
        self,
        *overrides: str,
        name: str = "run",
        world_size: int = 1,
        base: tuple[str, ...] = SMALL,
        environment: Mapping[str, str] | None = None,
        module: str = "lenet_dist.train",
        own_overrides: Mapping[int, Sequence[str]] | None = None,
        own_environment: Mapping[int, Mapping[str, str]] | None = None,
    ) -> Job:
        """Start `world_size` ranks, as srun would, of a run called `name`.

        `module`: what they are the main function of, or of another function after a colon.
        `own_overrides`, `own_environment`: what single ranks get besides, by their number.
        """
        arguments = [*base, f"run.root={self.folder}", f"run.name={name}", *overrides]
        port = free_port()
        ranks = []
        for rank in range(world_size):
            variables = dict(os.environ) | dict(environment or {})
            if world_size > 1:
                variables |= told(rank, world_size, port)
            variables |= (own_environment or {}).get(rank, {})
            full = [*arguments, *(own_overrides or {}).get(rank, ())]
            output = self.folder / f"{name}.{len(self._ranks)}.log"
            ranks.append(Rank(module, full, variables, output))
            self._ranks.append(ranks[-1])
        return Job(ranks, self.folder / name)

    def run(self, *overrides: str, **how: Any) -> Job:
        """Start a job and have it end well."""
        return self.start(*overrides, **how).expect(0)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *exception: object) -> None:
        for rank in self._ranks:
            rank.send(signal.SIGKILL)
        for rank in self._ranks:
            rank.process.join(10)


def wait_until(
    condition: Callable[[], bool], text: Callable[[], object], seconds: float = PATIENCE,
    every: float = 0.01, is_over: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Wait until something is so; fails, with a text, if it takes longer or all is over before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s:\n{text()}"
        assert not is_over(), f"all has ended:\n{text()}"
        time.sleep(every)


def told(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank on this machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_PORT": str(port),
    }  # fmt: skip


def is_pending(pid: int | None, number: int) -> bool:
    """Whether a signal was sent to a process that has not received it yet."""
    status = ""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"(?:ShdPnd|SigPnd):\s*(\w+)", status)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def free_port() -> int:
    """A TCP port that nobody listens on, of this worker's own share of those that the kernel gives
    to no connection."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = next(_PORTS) % 300 + 30_000 + worker % 9 * 300
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
