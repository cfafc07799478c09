"""What every test stands on: a clean environment, and skips that say what is missing."""

from __future__ import annotations

import os

import pytest

from tests import processes


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers and schedulers around the test run must not reach into it."""
    prefixes = ("ACCELERATE_", "SLURM_", "WANDB_", "TORCHELASTIC_", "OMP_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in list(os.environ):
        if name.startswith(prefixes) or name in names:
            monkeypatch.delenv(name)


@pytest.fixture
def job(tmp_path):
    """Starts jobs, real processes, whose runs lie under the test's folder."""
    with processes.Jobs(tmp_path) as jobs:
        yield jobs
