"""A node that is lost, comes back or computes wrong costs a job on a real cluster no bits."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Batch, Cluster, assert_one_readable_log
from tests.outcome import checkpoint_steps, outcome

pytestmark = pytest.mark.quiet(seconds=90)


@pytest.fixture
def batch_beside_a_wrong_node(tmp_path: Path) -> Iterator[Batch]:
    """Three nodes; what runs on n2 computes its updates by other instructions."""
    prolog = tmp_path / "prolog"
    told = "export ATEN_CPU_CAPABILITY=default"
    prolog.write_text(f'#!/bin/sh\n[ "$SLURMD_NODENAME" = n2 ] && echo {told}\nexit 0\n')
    prolog.chmod(0o755)
    cluster = Cluster(tmp_path / "cluster")
    up = cluster.up(f"TaskProlog={prolog}", nodes=3)
    if up.returncode == 2:
        pytest.skip(up.stderr.strip())
    submitted = Batch(cluster, tmp_path)
    yield submitted
    submitted.cancel()
    cluster.down()


def test_a_killed_process_fails_the_job_naming_it_and_the_next_job_finishes(
    batch: Batch, without_slurm: object
) -> None:
    job = batch.submit("--nodes=2")
    job.until_step(batch.run, 14)
    began = time.monotonic()
    with job.held():
        os.kill(job.ranks()[1], signal.SIGKILL)
    job.until(lambda: job.state == "FAILED")
    assert time.monotonic() - began < 120 + 60
    assert "srun: error: n2: task 1: Killed" in job.text()
    assert "requeueing job" not in job.text() and "Traceback" not in job.text()
    batch.submit("--nodes=2").expect("COMPLETED")
    assert outcome(batch.run) == without_slurm


def test_a_job_with_a_node_that_computes_wrong_names_it_and_goes_on_without_it(
    batch_beside_a_wrong_node: Batch, without_slurm: object
) -> None:
    batch, often = batch_beside_a_wrong_node, ("compute.audit_every=15", "checkpoint.keep=9")
    job = batch.submit("--nodes=3", overrides=often).expect("FAILED", "1:0")
    assert job.restarts == 0, "the same nodes would only find it again"
    assert "failed: rank 1 on n2 (" in job.text() and "than most of the 3 processes" in job.text()
    assert checkpoint_steps(batch.run) == []
    (advice,) = set(re.findall(r"on SLURM: sbatch (--exclude=\S+)\)", job.text()))
    again = batch.submit("--nodes=2", advice, overrides=often).expect("COMPLETED")
    assert "n[1,3]" in again.text()
    assert outcome(batch.run) == without_slurm


def test_a_job_that_loses_a_node_is_requeued_and_ends(batch: Batch, without_slurm: object) -> None:
    job = batch.submit("--nodes=2")
    job.until_step(batch.run, 14)
    with job.held():
        batch.cluster.lose("n2")
    job.until(lambda: job.restarts == 1)
    assert "lost another process" in job.text()
    assert batch.cluster.up("SlurmdTimeout=10", "KillWait=10").returncode == 0
    job.finish()
    assert outcome(batch.run) == without_slurm
    assert_one_readable_log(job)
