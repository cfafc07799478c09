"""sbatch slurm/train.sh ends with a finished run, whatever a real cluster does to it meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster import RUN, Batch, BatchJob, Cluster, assert_one_readable_log, has_got
from tests.commands import command
from tests.outcome import checkpoint_steps, outcome, result
from tests.processes import ROOT

pytestmark = pytest.mark.quiet(seconds=250)

PYTHON = ROOT / ".venv" / "bin" / "python"


# Outside a cluster: fast.


@pytest.mark.parametrize("script", ["train.sh", "seeds.sh", "elastic.sh"])
def test_outside_slurm_the_script_says_to_submit_it(script: str) -> None:
    done = command("bash", f"slurm/{script}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: not in a SLURM job") and "sbatch" in done.stderr
    assert done.stdout == ""


# On the cluster.


def test_the_preflight_compares_the_tasks_of_srun(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "preflight.json"
    srun = ("srun", "--nodes=2", "--cpus-per-task=1", str(PYTHON), "-m", "lenet_dist.preflight")
    data = ("data.name=synthetic", "compute.threads=1", f"run.root={tmp_path}")
    # Two ranks share two cores with whatever else runs here: slow is left to its own tests.
    shown = cluster.run(*srun, f"--json={file}", "--slow=1000", *data)
    assert shown.count("all 2 ranks agree") == 1
    report = json.loads(file.read_text())
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1]


def test_in_the_shell_of_salloc_one_process_trains_and_says_what_would_start_more(
    cluster: Cluster, tmp_path: Path
) -> None:
    # As LaunchParameters=use_interactive_step has salloc start a shell.
    shell = ("salloc", "--quiet", "--ntasks=4", "srun", "--interactive", "--preserve-env")
    place = (f"run.root={tmp_path}", "run.name=run", "train.max_steps=2")
    train = (str(PYTHON), "-m", "lenet_dist.train", *RUN, *place)
    shown = cluster.run(*shell, "bash", "-c", f"{' '.join(train)} 2>&1")
    said = (
        "warning: one process, in a job of 4 tasks: write srun before the command to use them all"
    )
    assert shown.count(said) == 1
    assert result(tmp_path / "run")["world_size"] == 1


@pytest.mark.parametrize("export", ["--export=ALL", "--export=NONE"])
def test_what_another_job_has_told_its_processes_is_not_taken_and_what_the_site_says_is(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, export: str
) -> None:
    inherited = {
        "SLURM_MEM_PER_CPU": "100", "SLURM_MEM_PER_NODE": "1", "MASTER_ADDR": "gone.invalid",
        "SLURM_CPU_BIND": "mask_cpu:0x8000", "RANK": "3", "WORLD_SIZE": "4",
    }  # fmt: skip
    for name, value in inherited.items():
        monkeypatch.setitem(batch.cluster.environment, name, value)
    job = batch.submit("--nodes=2", export)
    job.until_step(batch.run, 14)
    with job.held() as ranks:
        for rank in ranks:
            variables = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
            assert b"NCCL_DEBUG=WARN" in variables, "exported by site.sh"
    job.expect("COMPLETED")
    assert result(batch.run)["world_size"] == 2


def test_two_nodes_give_the_bits_of_two_processes(batch: Batch, without_slurm: object) -> None:
    job = batch.submit("--nodes=2").expect("COMPLETED")
    assert outcome(batch.run) == without_slurm
    assert result(batch.run)["world_size"] == 2
    assert "2 process(es) on n[1-2]" in job.text()
    assert_one_readable_log(job)
    # And what is complete is complete.
    before = {file: file.stat().st_mtime_ns for file in batch.run.rglob("*")}
    again = batch.submit("--nodes=2").expect("COMPLETED")
    assert "is complete; nothing to do" in again.text()
    assert {file: file.stat().st_mtime_ns for file in batch.run.rglob("*")} == before


def test_a_time_limit_is_warned_of_and_the_requeued_job_ends_with_the_same_bits(
    batch: Batch, without_slurm: object
) -> None:
    # Tracked offline, so that the processes have something to wait for before they leave.
    tracked = ("wandb.mode=offline",)
    job = batch.submit("--nodes=2", "--time=10", "--signal=USR2@20", overrides=tracked)
    job.until_step(batch.run, 14)
    with job.held() as ranks:
        job.until(lambda: any(batch.run.glob("wandb/offline-run-*/*.wandb")))
        # SLURM looks every 30 s, and warns as much too early.
        job.limit(minutes=(job.seconds + 30) // 60 + 1)
        job.until(lambda: all(has_got(rank, signal.SIGUSR2) for rank in ranks))
    job.until(lambda: job.restarts == 1)
    assert f"requeueing job {job.number} (1 of at most 50 times): this start took" in job.text()
    assert len(list((batch.run / "wandb").glob("offline-run-*"))) == 1
    job.limit(minutes=10)  # On a slow machine a minute is worth few steps.
    job.finish()
    assert outcome(batch.run) == without_slurm
    assert_one_readable_log(job)


def test_an_administrators_requeue_that_leaves_no_time_to_save_costs_no_bits(
    batch: Batch, without_slurm: object
) -> None:
    job = batch.submit("--nodes=2")
    job.until_step(batch.run, 42)
    with job.held() as ranks:
        batch.cluster.run("scontrol", "requeue", job.number)
    # Kept from running until SLURM's patience ends.
    while [rank for rank in ranks if Path(f"/proc/{rank}").exists()]:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGSTOP)
        time.sleep(0.001)
    assert "stopped by" not in job.text()
    job.finish()
    assert job.restarts == 1, "by SLURM alone"
    assert outcome(batch.run) == without_slurm
    assert_one_readable_log(job)


def test_a_preempted_job_saves_makes_way_and_goes_on(batch: Batch, without_slurm: object) -> None:
    job = batch.submit("--nodes=2")
    job.until_step(batch.run, 14)
    urgent = ("--partition=urgent", "--nodes=2", "--exclusive")
    with job.held():
        batch.cluster.run("srun", *urgent, "true")
    job.until(lambda: job.restarts == 1)
    assert "stopped by SIGTERM after step" in job.text()
    assert "requeueing job" not in job.text(), "SLURM requeues it, not the script"
    job.finish()
    assert job.restarts == 1
    assert outcome(batch.run) == without_slurm
    assert_one_readable_log(job)


def test_a_cancelled_job_stays_cancelled_with_all_saved_for_a_job_on_one_node(
    batch: Batch, without_slurm: object
) -> None:
    job = batch.submit("--nodes=2")
    job.until_step(batch.run, 14)
    with job.held():
        batch.cluster.run("scancel", job.number)
    job.until(lambda: job.state == "CANCELLED" and not job.ranks())
    assert "stopped by SIGTERM after step" in job.text()
    assert checkpoint_steps(batch.run)
    assert "requeueing job" not in job.text()
    time.sleep(3)
    assert (job.state, job.restarts) == ("CANCELLED", 0)
    batch.submit("--nodes=1").expect("COMPLETED")
    assert result(batch.run)["world_size"] == 1
    assert outcome(batch.run) == without_slurm


def test_an_array_has_a_run_a_seed_each_requeued_alone_by_its_warning(batch: Batch) -> None:
    array = batch.submit("--array=0-2", script="slurm/seeds.sh")
    tasks = [BatchJob(batch.cluster, f"{array.number}_{i}", array.log) for i in range(3)]
    runs = [batch.root / f"run-seed-{i}" for i in range(3)]
    tasks[1].until_step(runs[1], 14)
    with tasks[1].held() as ranks:
        batch.cluster.run("scancel", "--batch", "--signal=USR2", tasks[1].number)
        tasks[1].until(lambda: all(has_got(rank, signal.SIGUSR2) for rank in ranks))
    tasks[1].until(lambda: tasks[1].restarts == 1)
    tasks[1].finish()
    for task in (tasks[0], tasks[2]):
        task.expect("COMPLETED")
        assert task.restarts == 0
    hashes = {outcome(run)[0] for run in runs}
    assert len(hashes) == 3
    assert [result(run)["resumes"] for run in runs] == [0, 1, 0]


def test_a_job_at_its_cap_of_requeues_says_so_and_ends(batch: Batch, without_slurm: object) -> None:
    job = batch.submit("--nodes=1", "--export=ALL,MAX_REQUEUES=1")
    for restarts in (0, 1):
        job.until_step(batch.run, 14 + 14 * restarts)
        with job.held():
            batch.cluster.run("scancel", "--signal=USR2", job.number)
        if restarts == 0:
            job.until(lambda: job.restarts == 1 and job.is_started_again())
    job.expect("FAILED", "75:0")
    assert "not requeued" in job.text() and "of at most 1 (MAX_REQUEUES)" in job.text()
    batch.submit("--nodes=1").expect("COMPLETED")
    assert outcome(batch.run) == without_slurm


def test_a_job_that_gained_nothing_is_not_requeued(batch: Batch, cluster: Cluster) -> None:
    job = batch.submit("--nodes=1")
    job.until_step(batch.run, 14)
    with job.held():
        cluster.run("scancel", job.number)
    job.until(lambda: not job.ranks())
    step = checkpoint_steps(batch.run)[-1]
    with open(batch.run / "starts.jsonl", "a") as starts:
        starts.write(json.dumps({"step": step, "world_size": 1, "time": "now"}) + "\n")
    asked = f"{PYTHON} -m lenet_dist.requeue run.root={batch.root} run.name=run"
    script = batch.root / "requeue.sh"
    script.write_text(f"#!/bin/sh\n{asked}\n")
    useless = cluster.submit(batch.root, script=str(script)).expect("FAILED", "75:0")
    assert f"no progress since the last start, at step {step}" in useless.text()


def test_a_node_without_its_gpu_ends_the_job_in_its_words_and_code_though_others_have_hardly_begun(
    batch: Batch, tmp_path: Path
) -> None:
    late = tmp_path / "late"
    has_gpu = "[ $SLURM_PROCID = 1 ] || { sleep 6; echo unset SLURM_STEP_GPUS; }"
    late.write_text(f"#!/bin/sh\n{has_gpu}\n")
    late.chmod(0o755)
    gpus = ("--nodes=2", "--gpus-per-node=1", f"--export=ALL,SLURM_TASK_PROLOG={late}")
    job = batch.submit(*gpus).expect("FAILED", "2:0")
    assert job.text().count("error: SLURM gave this task GPU 0 on n2, but torch") == 1
    assert "error: rank 1 can't take part, and says why" in job.text()
    assert "Traceback" not in job.text() and not batch.run.exists()


def test_a_job_without_a_usable_python_says_so(batch: Batch, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "slurm", repository / "slurm")
    job = batch.submit(f"--chdir={repository}", script=str(ROOT / "slurm" / "train.sh"))
    job.expect("FAILED", "2:0")
    assert "can't import lenet_dist: run 'make setup'" in job.text()


def test_shares_of_a_node_are_counted_by_slurms_own_words(batch: Batch) -> None:
    job = batch.submit(
        "--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=2",
        overrides=("compute.threads=auto",),
    )  # fmt: skip
    job.expect("COMPLETED")
    assert result(batch.run)["threads"] == min(2, len(os.sched_getaffinity(0)))
