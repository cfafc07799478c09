"""What a run has left so far, read back without the package's own readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.processes import Job


def read_lines(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl, times aside."""
    file = directory / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    parsed = [json.loads(line) for line in lines]
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in parsed]


def has_line(directory: Path, step: int) -> bool:
    """Whether the run's metrics.jsonl has a line of this step or a later one."""
    file = directory / "metrics.jsonl"
    whole = file.read_text().split("\n")[:-1] if file.exists() else []
    return bool(whole) and json.loads(whole[-1])["step"] >= step


def world_sizes(directory: Path) -> list[int]:
    """Of each start of a run so far."""
    file = directory / "starts.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line)["world_size"] for line in lines]


def result(directory: Path) -> dict[str, Any]:
    """A run's result.json."""
    parsed: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return parsed


def outcome(directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """What must be the same for the same run: the weights' SHA-256, and metrics.jsonl."""
    return result(directory)["weights_sha256"], read_lines(directory)


def checkpoint_steps(directory: Path) -> list[int]:
    """The steps of the complete checkpoints, ascending."""
    folders = (directory / "checkpoints").glob("step-????????")
    return sorted(int(folder.name[5:]) for folder in folders)


def check_harmless(job: Job, reference: Job) -> None:
    """Weights and metrics are those of a run without trackers, and the end does not hang."""
    assert outcome(job.directory) == outcome(reference.directory)
    # The result's table is the last thing that is printed. The 30 s that a run may wait are on the
    # run's own clock, beside what else it does.
    done_at = (job.directory / "result.json").stat().st_mtime
    assert job.main.output.stat().st_mtime - done_at < 60
    assert "Traceback" not in job.text()
