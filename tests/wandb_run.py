"""What W&B and the terminal have of a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from tests.commands import command, succeeded
from tests.processes import Job
from tests.wandb_server import StoredRun, WandbServer


def records(run: Path) -> list[dict[str, Any]]:
    """What W&B's own reader finds in the run's segments, in the order of their starts."""
    folders = sorted((run / "wandb").glob("*run-*-*"), key=lambda f: f.name.split("run-")[1])
    read = [command("python", "-m", "wandb", "leet", "inspect", "--json", str(f)) for f in folders]
    return [json.loads(text) for done in read for text in done.stdout.splitlines()]


def history(run: Path) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records(run) if r["type"] == "history"]


def is_offline(job: Job) -> bool:
    """Whether W&B has begun to write a segment that is not for a server."""
    return any((job.directory / "wandb").glob("offline-run-*/*.wandb"))


def told(job: Job) -> str:
    """The one thing that the terminal says of W&B, beside where the run is to be seen."""
    known = ("W&B:", "tracking:")
    lines = [line for line in job.text().splitlines() if line.startswith(known)]
    lines = [line for line in lines if not line.startswith("W&B: http")]
    assert len(lines) == 1, job.text()
    return lines[0]


def check_upload(job: Job, server: WandbServer, steps: list[int]) -> None:
    """The command that the terminal named brings the whole run to a server that is well."""
    arguments = shlex.split(told(job).split("upload later with: ")[1])
    succeeded(command(*arguments, environment=server.environment()))
    check_arrived(server.run, steps)
    assert not server.unknown


def check_arrived(run: StoredRun, steps: list[int]) -> None:
    assert run.steps("train") == steps
    assert run.steps("validation") == [*range(39, steps[-1], 39), steps[-1]]
    assert run.steps("test") == [steps[-1]]
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert run.summary["test/accuracy"] > 0.9
