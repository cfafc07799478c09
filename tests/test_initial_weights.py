"""run.from: a new run begins with trained weights, and keeps every promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lenet_dist.model import weights
from lenet_dist.predict import PRETRAINED
from lenet_dist.request import load
from lenet_dist.run_dir.directory import RunDirectory
from tests.outcome import outcome, read_lines, result
from tests.processes import ROOT, Job, Jobs
from tests.tasks import TASKS

pytestmark = pytest.mark.processes

TUNED = ("train.max_steps=30", "seed=1", "optimizer.lr=0.001")
TRANSFORMER = {"module": "tests.tasks", "environment": {"TASK": "transformer"}}
WIDER = {"module": "tests.tasks", "environment": {"TASK": "transformer", "CLASSES": "12"}}


@pytest.fixture
def source(uninterrupted: Job, tmp_path: Path) -> Path:
    """A complete run to begin from, which the test may change or remove."""
    return shutil.copytree(uninterrupted.directory, tmp_path / "source" / "run")


@pytest.fixture(scope="session")
def tuned(uninterrupted: Job, shared_jobs: Jobs) -> Job:
    """A run that began with that run's weights, on one process, from start to end."""
    begin = f"run.from={uninterrupted.directory}"
    return shared_jobs.run(*TUNED, begin, "log.report=true", name="tuned")


def digest(run: Path) -> str:
    """The SHA-256 of a run's weights."""
    return result(run)["weights_sha256"]


def refused(jobs: Jobs, *overrides: str, **how: object) -> str:
    """The one line that a refused run gets, before it has begun."""
    job = jobs.start(*TUNED, *overrides, **how).expect(2)  # type: ignore[arg-type]
    lines = [line for line in job.text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not (job.directory / "metrics.jsonl").exists()
    return lines[0]


def test_it_begins_with_the_weights_and_with_nothing_else_of_that_run(
    jobs: Jobs, tuned: Job, uninterrupted: Job
) -> None:
    lines, last = read_lines(tuned.directory), read_lines(uninterrupted.directory)[-3]
    assert (lines[0]["step"], last["kind"]) == (7, "train")
    assert lines[0]["loss"] < 1.5 * last["loss"], "it goes on where that run ended"
    seeds = jobs.run(*TUNED, name="seeds")
    assert read_lines(seeds.directory)[0]["loss"] > 2 * lines[0]["loss"]
    still = jobs.run(
        "train.max_steps=1", "optimizer.lr=1e-30", f"run.from={uninterrupted.directory}"
    )
    trained, kept = (
        safetensors.torch.load_file(job.directory / "model.safetensors")
        for job in (uninterrupted, still)
    )
    for name, tensor in trained.items():
        assert torch.equal(kept[name], tensor), name


def test_it_has_the_same_bits_on_two_processes_and_over_a_stop_once_the_source_is_gone(
    jobs: Jobs, tuned: Job, source: Path
) -> None:
    begin = f"run.from={source}"
    two = jobs.run(*TUNED, begin, name="two", world_size=2)
    assert outcome(two.directory) == outcome(tuned.directory)
    stopped = jobs.start(*TUNED, begin)
    stopped.stop_at(14)
    shutil.rmtree(source)
    again = jobs.run(*TUNED, begin, world_size=2)
    assert outcome(again.directory) == outcome(tuned.directory)
    assert result(again.directory)["resumes"] == 1 and result(again.directory)["bit_exact"]
    assert "complete; nothing to do" in jobs.run(*TUNED, begin).text()


def test_the_weights_are_recorded_with_their_hash(tuned: Job, uninterrupted: Job) -> None:
    source = uninterrupted.directory
    name = f"{source}@sha256:{digest(source)}"
    (started,) = (tuned.directory / "starts.jsonl").read_text().splitlines()
    saved = sorted((tuned.directory / "checkpoints").glob("step-*/state.json"))[-1]
    for record in (json.loads(started), json.loads(saved.read_text()), result(tuned.directory)):
        assert record["from"] == name
    assert digest(source) in (tuned.directory / "report.html").read_text()
    assert result(source)["from"] is None


def test_other_weights_at_the_same_path_are_refused_or_recorded(
    jobs: Jobs, source: Path, tuned: Job
) -> None:
    begin, before = f"run.from={source}", digest(source)
    jobs.start(*TUNED, begin).stop_at(14)
    shutil.rmtree(source)
    shutil.copytree(tuned.directory, source)
    job = jobs.start(*TUNED, begin).expect(2)
    change = f"run.from: {source}@sha256:{before} -> {source}@sha256:{digest(source)}"
    assert change in job.text()
    pinned = f"run.from={source}@sha256:{before}"
    assert "the weights there have SHA-256" in refused(jobs, pinned, name="other")
    jobs.start(*TUNED, pinned).stop_at(21)  # As it began: its checkpoint has the weights.
    jobs.run(*TUNED, begin, "run.inexact=true")
    assert result(job.directory)["bit_exact"] is False


def test_a_run_is_another_with_or_without_first_weights(jobs: Jobs, uninterrupted: Job) -> None:
    begin = f"run.from={uninterrupted.directory}"
    jobs.start(*TUNED).stop_at(7)
    assert "run.from: None -> " in jobs.start(*TUNED, begin).expect(2).text()
    jobs.start(*TUNED, begin, name="tuned").stop_at(7)
    assert "run.from: " in (said := jobs.start(*TUNED, name="tuned").expect(2).text())
    assert " -> None" in said


def test_a_complete_run_asked_for_more_says_how_to_begin_with_it(uninterrupted: Job) -> None:
    run = uninterrupted.directory
    with Jobs(run.parent) as jobs:
        said = jobs.start("train.max_steps=90", name=run.name).expect(2).text()
    assert "train.max_steps: 60 -> 90" in said
    assert f"and to begin with the weights of this one add run.from={run}\n" in said


def test_what_is_not_there_or_no_weights_is_refused_by_name(jobs: Jobs, source: Path) -> None:
    nowhere = source / "nowhere"
    assert f"run.from: {nowhere}: no such run or weights file" in refused(
        jobs, f"run.from={nowhere}"
    )
    os.mkfifo(pipe := source / "pipe")
    assert f"{pipe}: a pipe or a device" in refused(jobs, f"run.from={pipe}")
    assert "README.md: not weights in safetensors" in refused(jobs, "run.from=README.md")
    (source / "model.safetensors").unlink()
    assert f"{source}: this run is not complete" in refused(jobs, f"run.from={source}")
    assert "run.from=s3://a: a URL" in refused(jobs, "run.from=s3://a")


def test_weights_of_another_model_are_refused_by_parameter_name(jobs: Jobs, tmp_path: Path) -> None:
    state = weights.tensors(PRETRAINED)[0]
    other = tmp_path / "other.safetensors"
    begin = f"run.from={other}"
    wrong = {
        "OUT.bias is [11], here [10]": state | {"OUT.bias": torch.zeros(11)},
        "it lacks F6.bias": {name: state[name] for name in state if name != "F6.bias"},
        "fc.weight is not known here": state | {"fc.weight": torch.zeros(3)},
        "it lacks C1.weight; it lacks C1.bias; it lacks C3.weight; it lacks C3.bias and 7 more": {
            "fc.weight": torch.zeros(3)
        },
        "a value in it is not finite": state | {"OUT.bias": torch.full([10], torch.nan)},
    }
    for said, tensors in wrong.items():
        safetensors.torch.save_file(tensors, other)
        assert said in refused(jobs, begin), said


def test_weights_for_pixels_of_another_scale_are_refused(jobs: Jobs, tmp_path: Path) -> None:
    file = tmp_path / "scaled.safetensors"
    file.write_bytes(weights.to_bytes(weights.tensors(PRETRAINED)[0], 0.13, 0.31, 1.5))
    scaled = "model.mean=0.13 model.std=0.31"
    assert f"its weights are for {scaled}; ask for that" in refused(jobs, f"run.from={file}")
    jobs.run("train.max_steps=3", f"run.from={file}", *scaled.split())


def test_another_head_of_a_task_of_ones_own_is_refused_by_name_and_the_docs_say_how_it_is_done(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = jobs.run("train.max_steps=12", name="old", **TRANSFORMER).directory
    said = refused(jobs, f"run.from={old}", **WIDER)
    assert "head.weight is [10, 32], here [12, 32]; head.bias is [10], here [12]" in said

    page = (ROOT / "docs" / "your-own.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"((?:    .*\n|\n)*    save_file.*\n)", page)
    monkeypatch.setenv("CLASSES", "12")
    (tmp_path / "runs").symlink_to(old.parent)
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(block), {"model": TASKS["transformer"].model, "config": load()})
    made = tmp_path / "body.safetensors"
    trained, body = (
        safetensors.torch.load_file(file) for file in (old / "model.safetensors", made)
    )
    assert body["head.weight"].shape == (12, 32)
    assert all(torch.equal(body[name], trained[name]) for name in body if "head" not in name)

    begin = ("train.max_steps=24", f"run.from={made}")
    one = jobs.run(*begin, name="one", **WIDER)
    jobs.start(*begin, name="two", **WIDER).stop_at(7)
    two = jobs.run(*begin, name="two", world_size=2, **WIDER)
    assert outcome(two.directory) == outcome(one.directory)
    assert RunDirectory(two.directory).source(load(two.directory / "config.yaml"))
