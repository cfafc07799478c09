"""Jobs as real processes: started, watched, hurt and waited for."""

from __future__ import annotations

import importlib
import itertools
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.outcome import has_line

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# A rank is forked from a server that has torch imported and has computed nothing: a process of its
# own as any other, without the seconds of its imports. Launchers get their own tests.
_FORKSERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["lenet_dist.training.loop", "torch._dynamo"]

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
"""Of its train lines."""


class Rank:
    """One process of a job. `errors`: where its stderr goes, if not to `output` too."""

    def __init__(
        self, module: str, arguments: list[str], environment: dict[str, str], output: Path,
        errors: Path | None = None,
    ) -> None:  # fmt: skip
        self.output = output
        files = (str(output), str(errors or output))
        _FORKSERVER.set_forkserver_preload(_PRELOADED)  # The server is the package's own too.
        self.process: ForkServerProcess = _FORKSERVER.Process(
            target=_be_a_rank, args=(module, arguments, environment, files, str(ROOT))
        )
        self.process.start()

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

    def text(self) -> str:
        """What it has printed so far, stdout and stderr."""
        return self.output.read_text() if self.output.exists() else ""


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
    exits.run(importlib.import_module(module).main)


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
        """Wait for all ranks to end with this exit code."""
        codes = self.wait(seconds)
        assert codes == [code] * len(codes), f"{codes}\n{self.text()}"
        return self

    def text(self) -> str:
        return "\n".join(rank.text() for rank in self.ranks)

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something is so; fails if the job ends before, or it takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not so after {seconds} s:\n{self.text()}"
            ended = [rank.process.exitcode for rank in self.ranks]
            assert None in ended, f"the job has ended, {ended}:\n{self.text()}"
            time.sleep(0.005)

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl has a line of this step or a later one."""
        self.until(lambda: has_line(self.directory, step))


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

        `own_overrides`, `own_environment`: what single ranks get besides, by their number.
        """
        arguments = [*base, f"run.root={self.folder}", f"run.name={name}", *overrides]
        port = str(free_port())
        ranks = []
        for rank in range(world_size):
            variables = dict(os.environ) | dict(environment or {})
            if world_size > 1:
                variables |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                    "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
                    "MASTER_PORT": port,
                }  # fmt: skip
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


class LaunchedJob:
    """A launcher's process, in a session of its own, and the directory of the run under it."""

    def __init__(self, arguments: list[str], directory: Path, log: str) -> None:
        self.directory = directory
        self.output = directory.with_suffix(f".{log}.log")
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env=user_environment(), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text()

    def until_step(self, step: int, seconds: float = PATIENCE) -> None:
        """Wait until metrics.jsonl has a line of this step or a later one."""
        deadline = time.monotonic() + seconds
        while not has_line(self.directory, step):
            assert self.process.poll() is None, f"the launcher has ended:\n{self.text()}"
            assert time.monotonic() < deadline, f"not so after {seconds} s:\n{self.text()}"
            time.sleep(0.01)

    def wait_for_everyone(self, seconds: float = PATIENCE) -> None:
        """Wait until the launcher and every process of the job, orphans too, have ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None or self._processes():
            assert time.monotonic() < deadline, f"{self._processes()} still there:\n{self.text()}"
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        """The processes that were asked for this run; torchrun gives each a session of its own."""
        root = f"run.root={self.directory.parent}".encode()
        found = []
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if root in arguments.read_bytes().split(b"\0"):
                    found.append(int(arguments.parent.name))
        return found

    def kill(self) -> None:
        """Leave none of them behind."""
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


class LaunchedJobs:
    """Starts jobs by the commands that users type, and leaves none behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._jobs: list[LaunchedJob] = []

    def start(self, *arguments: str, name: str = "run", log: str = "0") -> LaunchedJob:
        """Start a long SMALL run by the arguments, to which the overrides are added."""
        place = (f"run.root={self.folder}", f"run.name={name}")
        long = ("train.max_steps=5000",)
        program = str(BIN / arguments[0])
        full = [program, *arguments[1:], *place, *SMALL, *long]
        overrides = [a for a in arguments[1:] if "=" in a]
        self._jobs.append(LaunchedJob([*full, *overrides], self.folder / name, log))
        return self._jobs[-1]

    def __enter__(self) -> LaunchedJobs:
        return self

    def __exit__(self, *exception: object) -> None:
        for job in self._jobs:
            job.kill()


def command(
    *arguments: str, environment: Mapping[str, str] | None = None, seconds: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a command of the venv, as a user would, from the repository; gives what it printed."""
    program = [sys.executable, *arguments[1:]] if arguments[0] == "python" else list(arguments)
    return subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
        stdin=subprocess.DEVNULL, env=user_environment(environment),
    )  # fmt: skip


def forked(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    seconds: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` as `command` runs it, but without the seconds of its imports."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        rank = Rank(module, list(arguments), user_environment(environment), output, errors)
        try:
            code = rank.wait(seconds)
        finally:
            rank.send(signal.SIGKILL)
        return subprocess.CompletedProcess(
            [module, *arguments], code, output.read_text(), errors.read_text()
        )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said that was refused: one line on stderr, with exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def user_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of someone who has activated the venv."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **(extra or {})}


def loaded_by(statement: str) -> set[str]:
    """The packages that a new Python has loaded after a statement."""
    script = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = command("python", "-c", script)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def seconds_here(usual: float) -> float:
    """What takes this long on a usual machine may take so long here and now: by `import torch`,
    which takes 2 s there."""
    began = time.monotonic()
    assert command("python", "-c", "import torch").returncode == 0
    return usual * max(1.0, (time.monotonic() - began) / 2)


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
