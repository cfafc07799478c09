"""One trial: a command in a fresh process, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenet_dist.exits import RunFailed

_NOT_OURS = re.compile(
    r"(ACCELERATE|SLURM|TORCHELASTIC|OMP|MKL|MASTER|WANDB)_|(LOCAL_)?(RANK|WORLD_SIZE)$"
)
"""Variables that make a process one of several, set its threads, or say how it is tracked."""

_POLL_SECONDS = 0.005
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Taken:
    """What came of a trial. `result`: its result.json, empty if it leaves none."""

    result: dict[str, Any]
    seconds: float
    """From the start of its process to its exit."""
    first_line_seconds: float | None
    """From the start of its process to the first line of its metrics.jsonl, if it has one."""
    began_at: float
    """When its process was started, on time.monotonic()."""
    peak_mib: float
    """Resident memory of the largest of its processes."""
    command: str
    """As one would type it, without this machine's folders."""


def clean_environment() -> dict[str, str]:
    """This process's environment, without what launchers and trackers around it have set."""
    return {key: text for key, text in os.environ.items() if not _NOT_OURS.match(key)}


def take(
    arguments: list[str], folder: Path, *, watch_metrics: bool = False,
    limit_seconds: float = threading.TIMEOUT_MAX,
) -> Taken:  # fmt: skip
    """Take a trial of `python ARGUMENTS`, which leaves its files in `folder`.

    With `watch_metrics`, its metrics.jsonl is checked every 5 ms until there is a line in it. After
    `limit_seconds` it is killed. Raises RunFailed, with the end of what it printed, if its exit
    code is not 0.
    """
    folder.mkdir()
    output = folder.with_suffix(".log")
    first_line_seconds = None
    with open(output, "wb") as log:
        began_at = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *arguments], env=clean_environment(), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
        limit = threading.Timer(limit_seconds, process.kill)
        limit.start()
        try:
            if watch_metrics and _await_line(folder / "metrics.jsonl", process.pid):
                first_line_seconds = time.monotonic() - began_at
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            limit.cancel()
        seconds = time.monotonic() - began_at
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
        raise RunFailed(f"{folder.name} ended with exit code {process.returncode}:\n{end}")
    left = folder / "result.json"
    return Taken(
        result=json.loads(left.read_text()) if left.exists() else {},
        seconds=seconds,
        first_line_seconds=first_line_seconds,
        began_at=began_at,
        peak_mib=usage.ru_maxrss / 1024,
        command=_as_typed(arguments, folder.parent),
    )


def _await_line(file: Path, process: int) -> bool:
    """Wait for a line in the file; gives False if the process ends without one."""
    while not (file.exists() and file.stat().st_size):
        # WNOWAIT does not reap the process, so wait4 can still tell what it used.
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _as_typed(arguments: list[str], scratch: Path) -> str:
    command = shlex.join(["python", *arguments])
    return command.replace(f"{_REPOSITORY}/", "").replace(str(scratch), "FOLDER")
