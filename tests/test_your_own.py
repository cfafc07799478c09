"""docs/your-own.md: a model and a loss from outside the package, and the promises that stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import command, succeeded
from tests.follower import has_segment, hold_until
from tests.outcome import outcome, result
from tests.processes import Job, Jobs

pytestmark = pytest.mark.processes

RESNET = {"module": "docs.your_own"}
DIGITS = {"module": "docs.own_data"}
OF_DIGITS = ("data.validation=200", "train.epochs=2", "train.max_steps=null")
FASHION = (
    "data.name=fashion_mnist",
    "data.validation=500",
    "train.max_steps=24",
    "train.shards=8",
    "compute.audit_every=6",
)


@pytest.fixture(scope="session")
def alone(shared_jobs: Jobs) -> Job:
    """The example on one process, from start to end."""
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    shown = ("log.report=true", "wandb.mode=offline")
    job = shared_jobs.start(*FASHION, *shown, name="alone", **RESNET)
    return hold_until(job, has_segment(job)).expect(0)


def test_it_has_the_same_bits_when_it_is_stopped_on_three_processes_and_goes_on_with_two(
    jobs: Jobs, alone: Job
) -> None:
    jobs.start(*FASHION, world_size=3, **RESNET).stop_at(7)
    again = jobs.run(*FASHION, world_size=2, **RESNET)
    assert outcome(again.directory) == outcome(alone.directory)
    assert result(again.directory)["resumes"] == 1
    assert result(again.directory)["test"]["count"] == 10_000


def test_it_learns_and_its_page_and_trackers_do_without_lenets_pictures(alone: Job) -> None:
    ended = result(alone.directory)
    assert ended["test"]["accuracy"] > 0.3
    assert ended["parameters"] != 61_706
    page = (alone.directory / "report.html").read_text(encoding="utf-8")
    assert "<h1>alone: another model on Fashion-MNIST</h1>" in page
    assert "not LeNet-5&#39;s weights" in page
    assert "W&B: kept offline" in alone.text()
    assert "Error" not in alone.text()


def test_it_starts_by_the_commands_that_it_names(tmp_path: Path) -> None:
    place = ("data.name=synthetic", f"run.root={tmp_path}", "log.trackers=[]", "log.report=false")
    short = ("compute.threads=1", "train.max_steps=2", "train.batch_size=32", "data.validation=0")
    for launcher in (("accelerate", "launch"), ("torchrun", "--nproc-per-node", "2")):
        succeeded(command(*launcher, "docs/your_own.py", *place, f"run.name={launcher[0]}", *short))
    hashes = {result(folder)["weights_sha256"] for folder in tmp_path.iterdir()}
    assert len(hashes) == 1


def test_data_of_another_shape_has_the_same_bits_elsewhere_and_over_a_stop(jobs: Jobs) -> None:
    alone = jobs.run(*OF_DIGITS, "log.report=true", name="alone", **DIGITS)
    ended = result(alone.directory)
    assert ended["test"]["count"] == 300 and ended["validation"]["count"] == 200
    assert ended["test"]["accuracy"] > 0.5
    page = (alone.directory / "report.html").read_text(encoding="utf-8")
    assert "<h1>alone: another model on a data set of its own</h1>" in page
    jobs.start(*OF_DIGITS, name="stopped", **DIGITS).stop_at(14)
    again = jobs.run(*OF_DIGITS, name="stopped", world_size=3, **DIGITS)
    assert outcome(again.directory) == outcome(alone.directory)


def test_more_validation_images_than_a_data_set_has_are_refused(jobs: Jobs) -> None:
    job = jobs.start(*OF_DIGITS, "data.validation=1490", **DIGITS).expect(2)
    assert "data.validation=1490 leaves 7 training images" in job.text()
