"""Commands as a user types them, launchers among them, and jobs that these start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.outcome import has_line
from tests.processes import BIN, PATIENCE, ROOT, SMALL, Rank, wait_until


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

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl has a line of this step or a later one."""
        wait_until(lambda: has_line(self.directory, step), self.text, is_over=self.has_ended)

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for_everyone(self) -> None:
        """Wait until the launcher and every process of the job, orphans too, have ended."""
        wait_until(lambda: self.has_ended() and not self._processes(), self.text)

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
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    seconds: float = PATIENCE,
    folder: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Run a command of the venv, as a user would, in a folder; gives what it printed."""
    program = [sys.executable, *arguments[1:]] if arguments[0] == "python" else list(arguments)
    return subprocess.run(
        program, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False,
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


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """A command that must have ended well."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done


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
    return set(succeeded(command("python", "-c", script)).stdout.split())


def seconds_here(usual: float) -> float:
    """What takes this long on a usual machine may take so long here and now: by `import torch`,
    which takes 2 s there."""
    began = time.monotonic()
    assert command("python", "-c", "import torch").returncode == 0
    return usual * max(1.0, (time.monotonic() - began) / 2)
