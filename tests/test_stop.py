"""A stop that is asked for: all processes save at the same step and leave with 75."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.commands import LaunchedJobs
from tests.outcome import checkpoint_steps, outcome, read_lines
from tests.processes import Job, Jobs, is_pending

NO_CHECKPOINTS = ("checkpoint.every_steps=0", "checkpoint.every_seconds=0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_each_signal_stops_with_a_checkpoint_and_a_second_one_changes_nothing(
    jobs: Jobs, number: signal.Signals
) -> None:
    job = jobs.start(*NO_CHECKPOINTS)
    job.until_step(7)
    job.main.send(number)
    while is_pending(job.main.process.pid, number):  # Of several, any thread may be first.
        time.sleep(0.001)
    job.main.send(number)
    job.main.send(signal.SIGTERM)
    job.expect(75)
    assert f"stopped by {number.name}" in job.text()
    assert "Traceback" not in job.text()
    assert len(checkpoint_steps(job.directory)) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_ranks_stops_both_at_the_same_step(
    jobs: Jobs, uninterrupted: Job, rank: int
) -> None:
    job = jobs.start(*NO_CHECKPOINTS, world_size=2)
    job.until_step(14)
    job.ranks[rank].send(signal.SIGTERM)
    job.expect(75)
    assert len(checkpoint_steps(job.directory)) == 1
    assert outcome(jobs.run().directory) == outcome(uninterrupted.directory)


def test_a_signal_before_training_begins_is_not_lost(jobs: Jobs) -> None:
    job = jobs.start(*NO_CHECKPOINTS)
    job.until(lambda: (job.directory / "starts.jsonl").exists())
    job.main.send(signal.SIGTERM)
    job.expect(75)
    (step,) = checkpoint_steps(job.directory)
    assert step < 60


def test_the_file_stop_stops_once(jobs: Jobs, uninterrupted: Job) -> None:
    job = jobs.start(*NO_CHECKPOINTS, world_size=2)
    job.until_step(7)
    (job.directory / "STOP").touch()
    job.expect(75)
    assert "STOP" in job.text()
    assert not (job.directory / "STOP").exists()
    assert outcome(jobs.run().directory) == outcome(uninterrupted.directory)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_stop_during_an_evaluation_is_heard_between_its_chunks(
    jobs: Jobs, world_size: int
) -> None:
    slow = ("evaluate.batch_size=5", "train.max_steps=10", *NO_CHECKPOINTS)
    whole = jobs.run(*slow, name="whole")
    job = jobs.start(*slow, world_size=world_size)
    job.until(lambda: checkpoint_steps(job.directory) == [10])
    job.ranks[-1].send(signal.SIGTERM)
    job.expect(75)
    assert [line["kind"] for line in read_lines(job.directory)] == ["train", "train"]
    assert outcome(jobs.run(*slow).directory) == outcome(whole.directory)


LAUNCHERS = {
    "accelerate launch, one process": ["accelerate", "launch"],
    "accelerate launch, two": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2"],
    "torchrun": ["torchrun", "--nproc-per-node", "2"],
    "python": ["python"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sigterm_to_the_launcher_leaves_a_checkpoint_and_no_process(
    launched: LaunchedJobs, launcher: str
) -> None:
    # Launchers give exit codes of their own; what counts is what lies on disk, and who is left.
    job = launched.start(*LAUNCHERS[launcher], "-m", "lenet_dist.train", *NO_CHECKPOINTS)
    job.until_step(7)
    job.process.send_signal(signal.SIGTERM)
    job.wait_for_everyone()
    assert len(checkpoint_steps(job.directory)) == 1, job.text()
    assert "to continue" in job.text()


def test_a_signal_that_kills_torchrun_itself_stops_its_orphans_with_a_checkpoint(
    launched: LaunchedJobs,
) -> None:
    job = launched.start(*LAUNCHERS["torchrun"], "-m", "lenet_dist.train", *NO_CHECKPOINTS)
    job.until_step(7)
    job.process.send_signal(signal.SIGUSR1)
    job.wait_for_everyone()
    assert "the death of its launcher" in job.text()
    assert len(checkpoint_steps(job.directory)) == 1, job.text()


def test_a_ctrl_c_at_the_terminal_leaves_a_checkpoint_and_no_process(
    launched: LaunchedJobs,
) -> None:
    # A terminal sends it to the launcher and to every rank.
    job = launched.start(*LAUNCHERS["torchrun"], "-m", "lenet_dist.train", *NO_CHECKPOINTS)
    job.until_step(7)
    os.killpg(job.process.pid, signal.SIGINT)
    job.wait_for_everyone()
    assert len(checkpoint_steps(job.directory)) == 1, job.text()
