"""slurm/elastic.sh on a real cluster: a lost node does not end the job, and costs it no bits."""

from __future__ import annotations

import signal

import pytest

from tests.cluster import RUN, Batch, BatchJob, has_got
from tests.outcome import outcome, world_sizes
from tests.processes import Jobs

pytestmark = pytest.mark.quiet(seconds=150)

ELASTIC = ("train.max_steps=600", "data.validation=2000", "checkpoint.every_steps=50")


@pytest.fixture(scope="session")
def expected_of_elastic(shared_jobs: Jobs) -> object:
    """What RUN with ELASTIC ends with on one process without SLURM, uninterrupted."""
    return outcome(shared_jobs.run(*ELASTIC, base=RUN, name="elastic").directory)


def submit_elastic(batch: Batch, *flags: str) -> BatchJob:
    return batch.submit(*flags, script="slurm/elastic.sh", overrides=ELASTIC)


def elastic_job_at(batch: Batch, step: int) -> BatchJob:
    """A job on two nodes that has come to this step."""
    job = submit_elastic(batch, "--nodes=2")
    job.until_step(batch.run, step)
    return job


def test_an_elastic_job_goes_on_without_a_lost_node_and_takes_it_back(
    batch: Batch, expected_of_elastic: object
) -> None:
    job = elastic_job_at(batch, 50)
    batch.cluster.lose("n2")
    try:
        job.until(lambda: world_sizes(batch.run)[-1] == 1, every=0.05)
        with job.held() as ranks:
            job.until(lambda: job.fields()["NodeList"] == "n1")
            assert batch.cluster.up("SlurmdTimeout=10", "KillWait=10").returncode == 0
            joining = submit_elastic(batch, "--nodes=1", f"--export=ALL,JOIN={job.number}")
            # So that it is told of the other one before it is done.
            job.until(lambda: all(has_got(rank, signal.SIGTERM) for rank in ranks))
    finally:
        assert batch.cluster.up("SlurmdTimeout=10", "KillWait=10").returncode == 0
    job.expect("COMPLETED")
    joining.expect("COMPLETED")
    assert job.restarts == 0
    assert world_sizes(batch.run) == [2, 1, 2]
    assert outcome(batch.run) == expected_of_elastic


def test_an_elastic_job_that_is_warned_of_its_time_limit_is_requeued(
    batch: Batch, expected_of_elastic: object
) -> None:
    job = elastic_job_at(batch, 100)
    with job.held() as ranks:
        batch.cluster.run("scancel", "--batch", "--signal=USR2", job.number)
        job.until(lambda: all(has_got(rank, signal.SIGUSR2) for rank in ranks))
    job.until(lambda: job.restarts == 1)
    assert "stopped by SIGUSR2 after step" in job.text() and "requeueing job" in job.text()
    job.finish()
    assert outcome(batch.run) == expected_of_elastic


def test_an_elastic_job_that_lost_its_first_node_goes_on_when_it_is_requeued(
    batch: Batch, expected_of_elastic: object
) -> None:
    job = elastic_job_at(batch, 100)
    batch.cluster.lose("n1")
    batch.cluster.run("scontrol", "requeue", job.number)
    job.until(lambda: job.restarts == 1)
    assert batch.cluster.up("SlurmdTimeout=10", "KillWait=10").returncode == 0
    job.finish()
    assert outcome(batch.run) == expected_of_elastic
