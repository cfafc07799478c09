"""What every test stands on: a clean environment, and jobs that end with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.processes import Job, Jobs, LaunchedJobs


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers and schedulers around the test run must not reach into it."""
    prefixes = ("ACCELERATE_", "SLURM_", "WANDB_", "TORCHELASTIC_", "OMP_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in list(os.environ):
        if name.startswith(prefixes) or name in names:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are slow on several threads where others use the machine too."""
    torch.set_num_threads(1)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Starts jobs whose runs lie under the test's folder."""
    with Jobs(tmp_path) as started:
        yield started


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[LaunchedJobs]:
    """Starts jobs by launchers; their runs lie under the test's folder."""
    with LaunchedJobs(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The run that all others are compared with: SMALL on one process, from start to end."""
    with Jobs(tmp_path_factory.mktemp("uninterrupted")) as started:
        return started.run()
