"""What goes wrong ends the job, soon, with a reason, and loses nothing."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.disk import mounted
from tests.outcome import checkpoint_steps, outcome, read_lines
from tests.processes import Job, Jobs, free_port, told

pytestmark = pytest.mark.processes


def test_a_loss_that_is_not_finite_stops_every_process_and_is_never_saved(jobs: Jobs) -> None:
    explosive = ("optimizer.name=sgd", "optimizer.lr=1e6", "train.clip_norm=0")
    often = ("checkpoint.every_steps=1", "checkpoint.keep=100", "schedule.name=constant")
    job = jobs.start(*explosive, *often, "schedule.warmup=0.9", world_size=2)
    job.expect(1)
    assert "no checkpoint holds it" in job.main.text()
    failed_at = int(job.main.text().split("at step ")[1].split(";")[0])
    assert all(step < failed_at for step in checkpoint_steps(job.directory))
    assert all(line["step"] < failed_at for line in read_lines(job.directory))


def test_weights_that_are_not_finite_are_never_saved_though_the_loss_was(jobs: Jobs) -> None:
    # A float32's largest number is 3.4e38: the first update overflows, after a finite loss.
    overflow = ("optimizer.name=sgd", "optimizer.lr=1e300", "schedule.name=constant")
    job = jobs.start(*overflow, "schedule.warmup=0", "train.max_steps=1").expect(1)
    assert "the weights are not finite" in job.text()
    assert checkpoint_steps(job.directory) == []
    assert not (job.directory / "result.json").exists()


def test_processes_asked_for_different_runs_are_refused_by_rank_and_key(jobs: Jobs) -> None:
    other = {1: ["log.every_steps=5", "compute.audit_every=0"]}
    job = jobs.start(world_size=2, own_overrides=other).expect(2)
    said = "log.every_steps: 5, on rank 0 7"
    assert "error: rank 1 got a different request: " in job.main.text()
    assert said in job.text() and "compute.audit_every: 0, on rank 0 20" in job.text()
    assert not (job.directory / "config.yaml").exists()


@pytest.mark.parametrize(
    ("world_size", "lost", "module"),
    [(2, 0, "lenet_dist.train"), (4, 1, "tests.altered:through_tcp")],
)
def test_a_killed_rank_ends_the_others_at_once(
    jobs: Jobs, uninterrupted: Job, world_size: int, lost: int, module: str
) -> None:
    job = jobs.start(world_size=world_size, module=module)
    job.until_step(14)
    began = time.monotonic()
    job.ranks[lost].send(signal.SIGKILL)
    codes = job.wait()
    assert time.monotonic() - began < 20
    assert codes == [-signal.SIGKILL if rank == lost else 1 for rank in range(world_size)]
    others = [rank for number, rank in enumerate(job.ranks) if number != lost]
    assert all(rank.text().count("lost another process") == 1 for rank in others)
    assert "Traceback" not in job.text()
    assert outcome(jobs.run().directory) == outcome(uninterrupted.directory)


IN_TOUCH = ("lenet_dist.train", "tests.altered:through_tcp")
"""Jobs whose processes exchange rows through shared memory, and through gloo."""


@pytest.mark.parametrize("module", IN_TOUCH)
def test_a_rank_that_hangs_ends_the_job_within_the_timeout(jobs: Jobs, module: str) -> None:
    job = jobs.start("compute.timeout_seconds=5", world_size=2, module=module)
    job.until_step(14)
    began = time.monotonic()
    job.ranks[1].send(signal.SIGSTOP)
    assert job.main.wait(80) == 1
    assert 4 < time.monotonic() - began < 5 + 60
    assert "lost another process, or waited for it longer" in job.main.text()
    job.ranks[1].send(signal.SIGCONT)
    assert job.ranks[1].wait(60) == 1
    assert "Traceback" not in job.text()


@pytest.mark.parametrize("module", IN_TOUCH)
def test_processes_that_were_all_suspended_for_longer_than_the_timeout_go_on(
    jobs: Jobs, uninterrupted: Job, module: str
) -> None:
    job = jobs.start("compute.timeout_seconds=4", world_size=2, module=module)
    job.until_step(14)
    job.ranks[1].send(signal.SIGSTOP)
    time.sleep(0.5)  # Until the other one waits for it.
    job.main.send(signal.SIGSTOP)
    time.sleep(6)
    job.main.send(signal.SIGCONT)
    time.sleep(0.5)
    job.ranks[1].send(signal.SIGCONT)
    job.expect(0)
    assert outcome(job.directory) == outcome(uninterrupted.directory)


def test_a_sigterm_that_means_a_peer_died_does_not_hang(jobs: Jobs) -> None:
    job = jobs.start(world_size=2)
    job.until_step(14)
    job.ranks[1].send(signal.SIGKILL)
    job.main.send(signal.SIGTERM)
    assert job.main.wait(60) == 1


def test_a_peer_that_never_comes_is_waited_for_no_longer_than_the_timeout(jobs: Jobs) -> None:
    began = time.monotonic()
    job = jobs.start("compute.timeout_seconds=5", environment=told(0, 2, free_port()))
    job.expect(1, seconds=65)
    assert time.monotonic() - began < 30
    assert "compute.timeout_seconds=5" in job.text()
    assert not job.directory.exists()


def test_a_port_that_another_program_has_is_named(jobs: Jobs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = {"MASTER_PORT": str(other.getsockname()[1])}
        job = jobs.start("compute.timeout_seconds=5", world_size=2, own_environment={0: port})
        assert job.main.wait() == 2
        job.ranks[1].send(signal.SIGKILL)
    said = f"can't listen on MASTER_PORT={port['MASTER_PORT']}, which another program there does"
    assert job.main.text().startswith("error: rank 0 on ") and said in job.main.text()
    assert "Traceback" not in job.text()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "train.shards"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "compute.precision"),
        (
            {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16"},
            "ACCELERATE_USE_FSDP=true would override the config, and the environment says so",
        ),
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"},
            "PMI_SIZE=4, on several machines: name the first one",
        ),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}, "SLURM_STEP_ID is set but SLURM_JOB_ID"),
    ],
)
def test_an_environment_that_would_override_the_config_is_refused(
    jobs: Jobs, variables: dict[str, str], named: str
) -> None:
    job = jobs.start(environment=variables).expect(2)
    assert named in job.text()
    assert not job.directory.exists()


def test_an_environment_that_agrees_with_a_config_is_taken(jobs: Jobs, uninterrupted: Job) -> None:
    same = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}
    assert outcome(jobs.run(environment=same).directory) == outcome(uninterrupted.directory)


def test_a_graph_that_can_not_be_captured_is_said_once_and_changes_no_bit(
    jobs: Jobs, uninterrupted: Job
) -> None:
    job = jobs.run("compute.cuda_graph=true", world_size=2, environment={"ACCELERATE_USE_CPU": "1"})
    said = [line for line in job.text().splitlines() if "compute.cuda_graph" in line]
    assert said == ["warning: compute.cuda_graph=true: steps are not captured: there is no GPU"]
    assert outcome(job.directory) == outcome(uninterrupted.directory)
    assert "captured" not in uninterrupted.text(), "by default nothing is said without a GPU"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("compute.precision=fp16",), "compute.precision=fp16"),
        (("run.root=/dev/null/runs",), "run.root=/dev/null/runs"),
        (("data.name=mnist", "data.download=false", "data.root=nowhere"), "nowhere/mnist"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    jobs: Jobs, overrides: tuple[str, ...], named: str
) -> None:
    job = jobs.start(*overrides, world_size=2).expect(2)
    assert named in job.text()
    assert sum(line.startswith("error: ") for line in job.text().splitlines()) == 1
    assert not job.directory.exists()


def test_damaged_data_is_named_and_nothing_is_written(jobs: Jobs) -> None:
    file = jobs.folder / "data" / "mnist" / "t10k-labels-idx1-ubyte"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\0" * 10_008)
    data = ("data.name=mnist", f"data.root={jobs.folder / 'data'}", "data.download=false")
    job = jobs.start(*data, world_size=2).expect(2)
    assert f"error: {file}: not mnist's: SHA-256" in job.text()
    assert file.read_bytes() == b"\0" * 10_008
    assert not job.directory.exists()


def test_a_full_disk_is_a_reason_and_the_checkpoints_before_it_are_whole(
    jobs: Jobs, uninterrupted: Job, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "5m") as disk:
        place = (f"run.root={disk}",)
        stopping = jobs.start(*place)
        stopping.directory = disk / "run"
        stopping.stop_at(28)
        filling = jobs.start(*place, world_size=2)
        filling.until(lambda: len((disk / "run" / "starts.jsonl").read_text().splitlines()) == 2)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        filling.expect(1)
        assert "No space left on device" in filling.text()
        assert "No space left on device" in jobs.start(*place).expect(1).text()
        filler.unlink()
        jobs.run(*place)
        assert outcome(disk / "run") == outcome(uninterrupted.directory)


def test_a_second_job_on_a_run_is_refused_naming_the_owner(jobs: Jobs, uninterrupted: Job) -> None:
    first = jobs.start()
    first.until_step(7)
    first.main.send(signal.SIGSTOP)
    second = jobs.start().expect(2)
    assert f'"pid": {first.main.process.pid}' in second.text()
    first.main.send(signal.SIGCONT)
    first.expect(0)
    assert outcome(first.directory) == outcome(uninterrupted.directory)


def test_a_debugging_aid_that_crashes_torch_is_refused_by_name(jobs: Jobs) -> None:
    job = jobs.start(world_size=2, environment={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}).expect(2)
    assert "TORCH_DISTRIBUTED_DEBUG=DETAIL: torch crashes with it" in job.text()
    jobs.run("train.max_steps=2", environment={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})
