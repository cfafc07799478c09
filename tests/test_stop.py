"""A stop that is asked for: all processes save at the same step and leave with 75."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
import torch
from accelerate import Accelerator
from torchvision import datasets

from lenet_dist import exits, train
from lenet_dist.distributed.stop import Action, StopConsensus, StopRequest
from lenet_dist.predict import PRETRAINED
from tests.commands import LaunchedJobs
from tests.outcome import checkpoint_steps, outcome, read_lines
from tests.processes import PATIENCE, SMALL, Job, Jobs, fork, free_port, told
from tests.trickling import Trickling

pytestmark = pytest.mark.processes

SOON = 10
"""Seconds: on a busy machine, what takes one or two."""
NO_CHECKPOINTS = ("checkpoint.every_steps=0", "checkpoint.every_seconds=0")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_each_signal_stops_with_a_checkpoint_and_a_second_one_changes_nothing(
    jobs: Jobs, number: signal.Signals
) -> None:
    job = jobs.start(*NO_CHECKPOINTS)
    job.until_step(7)
    job.main.send(number)
    job.main.send(number)
    # Sent at once, it could be first: each signal goes to any of the process's threads.
    job.until(lambda: (job.directory / "checkpoints").exists())
    job.main.send(signal.SIGTERM)
    job.expect(75)
    assert f"stopped by {number.name}" in job.text()
    assert len(checkpoint_steps(job.directory)) == 1


def test_a_signal_to_one_of_two_ranks_stops_both_at_a_step(jobs: Jobs, uninterrupted: Job) -> None:
    job = jobs.start(*NO_CHECKPOINTS, world_size=2)
    job.until_step(14)
    job.ranks[1].send(signal.SIGTERM)
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


def test_the_file_stop_stops_once(jobs: Jobs) -> None:
    # The file is looked for twice a second.
    how = (*NO_CHECKPOINTS, "train.max_steps=1000", "evaluate.every_epochs=100")
    whole = jobs.run(*how, name="whole")
    job = jobs.start(*how, world_size=2)
    job.until_step(7)
    (job.directory / "STOP").touch()
    job.expect(75)
    assert "STOP" in job.text()
    assert not (job.directory / "STOP").exists()
    assert outcome(jobs.run(*how).directory) == outcome(whole.directory)


def test_a_stop_during_an_evaluation_is_heard_between_its_chunks(jobs: Jobs) -> None:
    slow = ("evaluate.batch_size=5", "train.max_steps=10", *NO_CHECKPOINTS)
    whole = jobs.run(*slow, name="whole")
    job = jobs.start(*slow, world_size=2)
    job.until(lambda: checkpoint_steps(job.directory) == [10])
    job.ranks[-1].send(signal.SIGTERM)
    job.expect(75)
    assert [line["kind"] for line in read_lines(job.directory)] == ["train", "train"]
    assert outcome(jobs.run(*slow).directory) == outcome(whole.directory)


def _hang_up_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        stop.training_begins()
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.1)
        assert not stop.is_made()


def test_nohup_is_heeded() -> None:
    process = fork(_hang_up_under_nohup)
    process.join(PATIENCE)
    assert process.exitcode == 0


def test_a_second_ctrl_c_ends_a_process_that_waits_for_another(jobs: Jobs) -> None:
    job = jobs.start(world_size=2)
    job.until_step(14)
    job.ranks[1].send(signal.SIGSTOP)
    time.sleep(0.1)
    job.main.send(signal.SIGINT)
    time.sleep(0.1)
    assert job.main.process.is_alive()
    job.main.send(signal.SIGINT)
    assert job.main.wait(SOON) == 1
    assert "failed: interrupted twice: ended without a checkpoint" in job.main.text()


@pytest.mark.parametrize(
    ("module", "number", "code"), [("train", signal.SIGTERM, 75), ("evaluate", signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_that_waits_for_its_peers_to_come(
    jobs: Jobs, module: str, number: signal.Signals, code: int
) -> None:
    port = free_port()
    weights = (str(PRETRAINED), "compute.timeout_seconds=600")
    base = SMALL if module == "train" else weights
    job = jobs.start(environment=told(0, 2, port), module=f"lenet_dist.{module}", base=base)
    job.until(lambda: is_open(port))
    time.sleep(0.2)
    job.main.send(number)
    job.expect(code, seconds=SOON)
    said = f"stopped by {number.name} before training began; run the same command again"
    assert (said in job.text()) == (module == "train")


def is_open(port: int) -> bool:
    """Whether a process listens there. A connection would be a peer that has come."""
    return any(c.laddr.port == port for c in psutil.net_connections("tcp") if c.status == "LISTEN")


def _train_from(mirror: str, arguments: list[str]) -> None:
    datasets.MNIST.mirrors = [mirror]
    sys.argv[1:] = arguments
    exits.run(train.main)


def test_a_signal_ends_a_command_whose_download_trickles(tmp_path: Path) -> None:
    with Trickling() as mirror:
        data = ["data.name=mnist", f"data.root={tmp_path}", f"run.root={tmp_path}"]
        process = fork(_train_from, mirror.url, data)
        assert mirror.is_asked.wait(PATIENCE) and process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join(SOON)
        assert process.exitcode == 75


class Together:
    """The agreements of processes that take their steps in threads here, at their own pace."""

    def __init__(self, *paces: Callable[[int], float]) -> None:
        self.paces = paces
        self.requests = [StopRequest() for _ in paces]
        self.rows = [torch.zeros(0)] * len(paces)
        self.meet = threading.Barrier(len(paces))

    def steps_agreed(self, first: int, count: int) -> list[int]:
        """The steps after which all agreed, of `count` steps."""
        with ThreadPoolExecutor() as pool:
            agreed = list(
                pool.map(lambda rank: self._run(rank, first, count), range(len(self.paces)))
            )
        assert all(steps == agreed[0] for steps in agreed), "or some would wait for ever"
        return agreed[0]

    def _run(self, rank: int, first: int, count: int) -> list[int]:
        def gather(rows: torch.Tensor) -> torch.Tensor:
            self.rows[rank] = rows
            self.meet.wait(PATIENCE)
            gathered = torch.cat(self.rows)
            self.meet.wait(PATIENCE)
            return gathered

        here = SimpleNamespace(num_processes=len(self.paces), device="cpu")
        agreement = StopConsensus(self.requests[rank], cast(Accelerator, here), gather)
        agreed = []
        for step in range(first, first + count):
            time.sleep(self.paces[rank](step))
            if agreement.is_due(step):
                agreed.append(step)
                if agreement.reach(step) is not Action.GO_ON:
                    break
        return agreed


def test_quick_steps_are_agreed_on_every_eighth_and_slow_ones_each() -> None:
    quick = Together(lambda step: 0.001, lambda step: 0.0)
    assert quick.steps_agreed(first=1001, count=20) == [1001, 1002, 1010, 1018]
    slow = Together(lambda step: 0.0, lambda step: 0.6)
    assert slow.steps_agreed(first=1, count=4) == [1, 2, 3, 4]


def test_a_stop_is_agreed_on_soon_though_steps_have_become_slower() -> None:
    slowing = Together(lambda step: 0.01 if step < 10 else 0.3, lambda step: 0.0)
    asked = threading.Timer(1.5, lambda: setattr(slowing.requests[1], "reason", "SIGTERM"))
    asked.start()
    began = time.monotonic()
    slowing.steps_agreed(first=1, count=1000)
    assert time.monotonic() - began < 1.5 + 5


LAUNCHERS = {
    "accelerate launch, one process": ["accelerate", "launch"],
    "torchrun": ["torchrun", "--nproc-per-node", "2"],
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


def test_a_signal_that_kills_torchrun_stops_its_orphans_in_order(launched: LaunchedJobs) -> None:
    job = launched.start(*LAUNCHERS["torchrun"], "-m", "lenet_dist.train", *NO_CHECKPOINTS)
    job.until_step(7)
    job.process.send_signal(signal.SIGUSR1)
    job.wait_for_everyone()
    assert ": the launcher process exited; saved in" in job.text()
    assert len(checkpoint_steps(job.directory)) == 1, job.text()


def test_a_ctrl_c_at_a_terminal_leaves_a_checkpoint_and_no_process(launched: LaunchedJobs) -> None:
    # A terminal sends it to the launcher and to every rank.
    job = launched.start(*LAUNCHERS["torchrun"], "-m", "lenet_dist.train", *NO_CHECKPOINTS)
    job.until_step(7)
    os.killpg(job.process.pid, signal.SIGINT)
    job.wait_for_everyone()
    assert len(checkpoint_steps(job.directory)) == 1, job.text()
