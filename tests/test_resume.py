"""A run that is interrupted, in any way and any number of times, ends as one that is not."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.outcome import checkpoint_steps, outcome, result, world_sizes
from tests.processes import Job, Jobs

pytestmark = pytest.mark.processes


def test_a_run_begun_on_two_killed_and_continued_on_one_and_four_has_the_bits_of_one(
    jobs: Jobs, uninterrupted: Job
) -> None:
    jobs.start(world_size=2).kill_at(14)
    jobs.start(world_size=1).kill_at(35)
    last = jobs.run(world_size=4)
    assert outcome(last.directory) == outcome(uninterrupted.directory)
    assert result(last.directory)["resumes"] == 2
    assert result(last.directory)["bit_exact"] is True
    assert world_sizes(last.directory) == [2, 1, 4]


def test_three_stops_in_one_epoch_and_one_at_its_boundary_change_nothing(
    jobs: Jobs, uninterrupted: Job
) -> None:
    for step in (7, 14, 28):
        jobs.start().stop_at(step)
    boundary = jobs.start("checkpoint.every_steps=39")
    boundary.until_checkpoint(39)
    boundary.main.send(signal.SIGTERM)
    boundary.expect(75)
    last = jobs.run()
    assert outcome(last.directory) == outcome(uninterrupted.directory)
    assert result(last.directory)["resumes"] == 4


def test_kills_at_random_moments_change_nothing(jobs: Jobs, uninterrupted: Job) -> None:
    moments, codes = random.Random(0), []
    for _ in range(6):
        job = jobs.start("checkpoint.every_steps=1", "checkpoint.keep=3")
        job.until(lambda job=job: job.directory.exists())
        job.main.process.join(moments.uniform(0.0, 0.2))
        job.main.send(signal.SIGKILL)
        codes += job.wait()
    assert codes.count(-signal.SIGKILL) >= 3, codes
    last = jobs.run()
    assert outcome(last.directory) == outcome(uninterrupted.directory)


def test_a_run_killed_in_its_last_evaluation_repeats_it(jobs: Jobs, uninterrupted: Job) -> None:
    job = jobs.start(world_size=2)
    job.until_checkpoint(60)
    for rank in job.ranks:
        rank.send(signal.SIGKILL)
    job.wait()
    assert not (job.directory / "result.json").exists()
    assert outcome(jobs.run().directory) == outcome(uninterrupted.directory)


def test_a_resumed_run_of_another_recipe_keeps_its_bits(jobs: Jobs) -> None:
    recipe = ("optimizer.name=muon", "optimizer.beta1=0.95", "compute.precision=bf16")
    recipe += ("train.max_steps=28",)
    whole = jobs.run(*recipe, name="whole")
    jobs.start(*recipe, world_size=2).kill_at(14)
    last = jobs.run(*recipe, world_size=2)
    assert outcome(last.directory) == outcome(whole.directory)


def test_a_run_killed_before_a_checkpoint_begins_again(jobs: Jobs, uninterrupted: Job) -> None:
    jobs.start("checkpoint.every_steps=0").kill_at(14)
    last = jobs.run()
    assert outcome(last.directory) == outcome(uninterrupted.directory)


def test_checkpoints_come_by_seconds_too_and_only_the_newest_are_kept(jobs: Jobs) -> None:
    by_seconds = ("checkpoint.every_steps=0", "checkpoint.every_seconds=0.05")
    run = jobs.run(*by_seconds, "checkpoint.keep=3", world_size=2)
    steps = checkpoint_steps(run.directory)
    assert len(steps) == 3
    assert steps[-1] == 60


def test_a_complete_run_is_left_alone(jobs: Jobs, uninterrupted: Job, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted.directory, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = jobs.run()
    assert "complete" in again.text()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.fixture(scope="session")
def stopped_once(shared_jobs: Jobs) -> Path:
    """The directory of a run that was stopped half-way, on one process."""
    return shared_jobs.start(name="stopped").stop_at(28).directory


@pytest.fixture
def stopped(jobs: Jobs, stopped_once: Path) -> Path:
    """A test's own copy of that run, which its jobs go on with."""
    return shutil.copytree(stopped_once, jobs.folder / "run")


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    jobs: Jobs, uninterrupted: Job, stopped: Path
) -> None:
    newest = stopped / "checkpoints" / f"step-{checkpoint_steps(stopped)[-1]:08d}"
    (newest / "state.json").unlink()
    last = jobs.run()
    assert "warning: " in last.text() and str(newest / "state.json") in last.text()
    assert outcome(last.directory) == outcome(uninterrupted.directory)


def test_resume_must_and_never_are_held(jobs: Jobs, stopped: Path) -> None:
    assert "run.resume=never" in jobs.start("run.resume=never").expect(2).text()
    assert "run.resume=must" in jobs.start("run.resume=must", name="new").expect(2).text()
    assert not (jobs.folder / "new").exists()
    assert "already" not in jobs.run("run.resume=must").text()


def test_a_changed_config_is_refused_with_what_changed(jobs: Jobs, stopped: Path) -> None:
    changed = ("seed=3", "train.max_steps=90", "compute.threads=2", "optimizer.lr=0.001")
    refused = jobs.start(*changed).expect(2).text()
    for named in ("seed: 0 -> 3", "train.max_steps: 60 -> 90", "compute.threads: 1 -> 2"):
        assert named in refused
    assert "optimizer.lr" in refused and "run.inexact=true" in refused


def test_a_start_that_saved_nothing_does_not_change_what_the_run_goes_on_with(
    jobs: Jobs, uninterrupted: Job, stopped: Path
) -> None:
    # It diverges before it can save anything.
    inexact = ("run.inexact=true", "compute.threads=2", "optimizer.lr=1e30")
    jobs.start(*inexact, "checkpoint.every_steps=0").expect(1)
    refused = jobs.start("compute.threads=2").expect(2)
    assert "compute.threads: 1 -> 2" in refused.text()
    again = jobs.run("compute.threads=auto")
    assert outcome(again.directory) == outcome(uninterrupted.directory)
    assert result(again.directory)["threads"] == 1
    assert result(again.directory)["bit_exact"] is True


@pytest.mark.parametrize(
    ("begun", "then"),
    [("optimizer.name=sgd", "optimizer.name=muon"), ("train.ema_decay=0", "train.ema_decay=0.9")],
)
def test_what_a_checkpoint_lacks_for_changes_begins_anew(jobs: Jobs, begun: str, then: str) -> None:
    jobs.start(begun).stop_at(28)
    done = jobs.run(then, "run.inexact=true")
    assert result(done.directory)["bit_exact"] is False
    assert result(done.directory)["resumes"] == 1


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.max_steps=10", "more than the 10 asked for"),
        ("train.batch_size=32", "train.batch_size=32: "),
    ],
)
def test_what_can_not_go_on_is_refused_with_the_flag_too(
    jobs: Jobs, stopped: Path, override: str, named: str
) -> None:
    assert named in jobs.start(override, "run.inexact=true").expect(2).text()


def test_a_run_without_its_config_is_refused_and_stays_as_it_is(jobs: Jobs, stopped: Path) -> None:
    (stopped / "config.yaml").unlink()
    steps = checkpoint_steps(stopped)
    assert "checkpoints but no config.yaml" in jobs.start("seed=5").expect(2).text()
    assert checkpoint_steps(stopped) == steps


def test_another_world_size_under_ddp_is_refused_or_by_the_flag_marked(jobs: Jobs) -> None:
    jobs.start("train.reduction=ddp", world_size=2).kill_at(28)
    refused = jobs.start("train.reduction=ddp").expect(2)
    assert "world size" in refused.text() and "2 -> 1" in refused.text()
    done = jobs.run("train.reduction=ddp", "run.inexact=true")
    assert result(done.directory)["bit_exact"] is False
    assert result(done.directory)["steps"] == 60


def test_lost_metrics_are_noticed(jobs: Jobs, stopped: Path) -> None:
    metrics = stopped / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:1] + lines[2:]))
    refused = jobs.start().expect(2)
    assert "metrics.jsonl is missing 1 line(s), first the train line of step 14" in refused.text()


def test_threads_stay_what_they_were_when_the_run_began(jobs: Jobs) -> None:
    auto = ("compute.threads=auto", "train.max_steps=30")
    job = jobs.start(*auto)
    job.kill_at(14)
    began_with = (job.directory / "config.yaml").read_text()
    last = jobs.run(*auto, world_size=2)
    assert (last.directory / "config.yaml").read_text() == began_with
    assert f"threads: {result(last.directory)['threads']}" in began_with


def test_kernels_told_to_compute_otherwise_are_refused_and_named(jobs: Jobs, stopped: Path) -> None:
    refused = jobs.start(environment={"ONEDNN_MAX_CPU_ISA": "SSE41"}).expect(2)
    assert "ONEDNN_MAX_CPU_ISA: None -> SSE41" in refused.text()
    talkative = jobs.run(environment={"ONEDNN_VERBOSE": "0"})
    ended = result(talkative.directory)
    assert ended["bit_exact"] is True and "ONEDNN_VERBOSE" not in ended["kernel_variables"]
    told = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    other = jobs.run("train.max_steps=2", name="other", environment=told)
    assert told.items() <= result(other.directory)["kernel_variables"].items()


def test_a_line_cut_short_is_as_not_written(jobs: Jobs, uninterrupted: Job, stopped: Path) -> None:
    files = [stopped / name for name in ("starts.jsonl", "metrics.jsonl", "ranks.jsonl")]
    for file in files:
        file.write_bytes(file.read_bytes() + b'{"step": 6\xff')
    run = jobs.run()
    assert outcome(run.directory) == outcome(uninterrupted.directory)
    assert result(run.directory)["resumes"] == 1
    for file in files:
        assert all("step" in json.loads(line) for line in file.read_text().splitlines())


def test_a_complete_run_with_a_damaged_result_is_refused(jobs: Jobs, uninterrupted: Job) -> None:
    run = shutil.copytree(uninterrupted.directory, jobs.folder / "run")
    (run / "result.json").write_text("{}")
    assert f"{run / 'result.json'}: damaged" in jobs.start().expect(2).text()


def test_ddps_own_sum_of_several_processes_has_the_same_bits_after_a_resume(jobs: Jobs) -> None:
    how = ("train.reduction=ddp", "train.batch_size=48", "train.max_steps=24", "optimizer.name=sgd")
    whole = jobs.run(*how, name="whole", world_size=3)
    jobs.start(*how, name="parts", world_size=3).stop_at(7)
    again = jobs.run(*how, name="parts", world_size=3)
    assert result(again.directory)["resumes"] == 1
    assert outcome(again.directory) == outcome(whole.directory)


def test_if_no_checkpoint_is_good_the_run_is_refused_and_kept(jobs: Jobs, stopped: Path) -> None:
    for step in checkpoint_steps(stopped):
        (stopped / "checkpoints" / f"step-{step:08d}" / "model.safetensors").write_bytes(b"")
    lines = (stopped / "metrics.jsonl").read_bytes()
    assert "no usable checkpoint" in jobs.start().expect(2).text()
    assert (stopped / "metrics.jsonl").read_bytes() == lines
