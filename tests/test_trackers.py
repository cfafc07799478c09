"""Which trackers follow a run, and what is refused before it begins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lenet_dist.exits import RequestError
from lenet_dist.request import load
from lenet_dist.track.environment import active_trackers
from tests.commands import command
from tests.follower import hold_until
from tests.outcome import check_harmless, read_lines
from tests.processes import TRAIN_STEPS, Job, Jobs

pytestmark = pytest.mark.timed(seconds=60)


def test_disabled_starts_nothing_and_leaves_nothing(uninterrupted: Job) -> None:
    assert not (uninterrupted.directory / "wandb").exists()
    assert "W&B" not in uninterrupted.text()


@pytest.mark.parametrize(
    ("variables", "overrides", "named"),
    [
        ({"WANDB_MODE": "online"}, ("wandb.mode=offline",), "wandb.mode=offline"),
        ({"WANDB_MODE": "shared"}, ("wandb.mode=auto",), "WANDB_MODE=shared"),
        ({"WANDB_DISABLED": "true"}, ("wandb.mode=online",), "disabled"),
        ({"WANDB_PROJECT": "other"}, ("wandb.mode=offline",), "wandb.project"),
        ({"WANDB_ENTITY": "other"}, ("wandb.mode=offline",), "wandb.entity"),
        ({"WANDB_RUN_GROUP": "other"}, ("wandb.mode=offline",), "wandb.group"),
        ({"WANDB_RUN_ID": "other"}, ("wandb.mode=offline",), "WANDB_RUN_ID"),
        ({"WANDB_SWEEP_ID": "other"}, ("wandb.mode=offline",), "WANDB_SWEEP_ID"),
        ({}, ("log.trackers=[mlflow]",), "no tracker 'mlflow'"),
        ({}, ("wandb.mode=offline", "wandb.project=a/b"), "wandb.project='a/b'"),
        ({}, ("wandb.mode=offline", f"wandb.tags=[{'t' * 65}]"), "wandb.tags: 'ttt"),
    ],
)
def test_what_would_override_the_config_or_is_not_there_is_refused(
    jobs: Jobs, variables: dict[str, str], overrides: tuple[str, ...], named: str
) -> None:
    job = jobs.start(*overrides, environment=variables).expect(2)
    assert named in job.text()
    assert not job.directory.exists()


def test_a_tracker_that_is_not_installed_is_refused_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # So Python takes it for missing.
    with pytest.raises(RequestError, match=re.escape("pip install 'lenet_dist[tensorboard]'")):
        active_trackers(load(None, ["log.trackers=[tensorboard]"]))


def test_tensorboard_shows_each_line_once_however_often_the_run_was_interrupted(
    jobs: Jobs, uninterrupted: Job
) -> None:
    trackers = "log.trackers=[tensorboard]"
    killed = jobs.start(trackers)
    killed.kill_at(28)
    before = set(killed.directory.glob("tensorboard/*"))
    run = jobs.start(trackers)
    # On a slow machine its process may begin after the run has ended.
    hold_until(run, lambda: set(run.directory.glob("tensorboard/*")) > before)
    check_harmless(run.expect(0), uninterrupted)
    events = EventAccumulator(str(run.directory / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == TRAIN_STEPS
    expected = [line["loss"] for line in read_lines(run.directory) if line["kind"] == "train"]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(expected)
    assert not (run.directory / "wandb").exists()


def test_track_refuses_what_it_cannot_track(uninterrupted: Job, tmp_path: Path) -> None:
    for target, named in ((tmp_path, "config.yaml"), (uninterrupted.directory, "wandb.mode")):
        refused = command("python", "-m", "lenet_dist.track", str(target))
        assert refused.returncode == 2 and named in refused.stderr
        assert refused.stderr.count("\n") == 1
