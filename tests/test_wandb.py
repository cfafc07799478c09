"""W&B sees one run, whole and in order."""

from __future__ import annotations

import functools
import getpass
import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lenet_dist.track.environment import settle_environment
from tests.commands import forked, refusal
from tests.follower import family, has_segment, hold, hold_until, let_go_when
from tests.outcome import check_harmless, result
from tests.processes import PATIENCE, TRAIN_STEPS, Job, Jobs, fork, free_port
from tests.wandb_run import check_arrived, check_upload, history, told
from tests.wandb_server import WandbServer

OFFLINE, ONLINE = "wandb.mode=offline", "wandb.mode=online"
pytestmark = [pytest.mark.timed(seconds=150), pytest.mark.usefixtures("home_without_keys")]
track = functools.partial(forked, "lenet_dist.track")


@pytest.mark.parametrize("mode", [OFFLINE, ONLINE])
def test_three_interruptions_on_two_processes_give_one_history_of_each_line_once_in_order(
    jobs: Jobs, uninterrupted: Job, server: WandbServer, mode: str
) -> None:
    how = {"world_size": 2, "environment": server.environment()}
    jobs.start(mode, **how).stop_at(14)
    for step, all_die in ((28, False), (42, True)):
        killed = jobs.start(mode, **how)
        hold_until(killed, has_segment(killed))
        killed.until_step(step)
        followers = family(killed) if all_die else []
        for rank in killed.ranks:
            rank.send(signal.SIGKILL)
        for process in followers:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        killed.wait()
    last = jobs.start(mode, **how)
    check_harmless(hold_until(last, has_segment(last)).expect(0), uninterrupted)
    if mode == OFFLINE:
        rows = history(last.directory)
        assert [row["train/step"] for row in rows if "train/step" in row] == TRAIN_STEPS
        assert not server.asked
        check_upload(last, server, TRAIN_STEPS)
    check_arrived(server.run, TRAIN_STEPS)
    assert len(server.runs) == 1
    # Each train row tells how long the ranks computed and waited in a step.
    *_, written = (last.directory / "ranks.jsonl").read_text().splitlines()
    *_, row = [row for row in server.run.history if "train/step" in row]
    ranks = json.loads(written)
    slowest = 1e3 * max(ranks["computed"]) / ranks["steps"]
    assert row["ranks/computed_ms/slowest"] == pytest.approx(slowest)
    assert all("ranks/waited_ms/median" in row for row in server.run.history if "train/lr" in row)


def test_a_run_with_a_key_in_netrc_is_online_and_described_as_a_whole(
    jobs: Jobs, server: WandbServer, tmp_path: Path
) -> None:
    host = server.url.removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {server.key}\n")
    (tmp_path / "netrc").chmod(0o600)
    described = ("wandb.mode=auto", "wandb.group=seeds", "wandb.tags=[a,b]", "run.name=seed-3")
    run = jobs.start(*described, name="seed-3", environment={"WANDB_BASE_URL": server.url})
    hold_until(run, has_segment(run)).expect(0)
    seen, left = server.run, result(run.directory)
    check_arrived(seen, TRAIN_STEPS)
    fields = {"displayName": "seed-3", "groupName": "seeds", "jobType": "train", "tags": ["a", "b"]}
    assert fields.items() <= seen.fields.items()
    config = {name: entry["value"] for name, entry in seen.config.items()}
    assert config["train"]["batch_size"] == 64 and config["world_size"] == 1
    assert config["versions"] == left["versions"]
    assert seen.summary["test/accuracy"] == left["test"]["accuracy"]
    assert seen.summary["weights_sha256"] == left["weights_sha256"]
    for digit, share in enumerate(left["test"]["per_class_accuracy"]):
        assert seen.summary[f"test/accuracy_of/{digit}"] == share
    first = seen.history[0]
    assert {"train/loss", "train/accuracy", "train/lr", "train/grad_norm"} <= first.keys()
    assert seen.history[-1]["test/mistakes"]["ncols"] == 4
    assert seen.history[-1]["test/confusion_table"]["nrows"] == 100
    assert seen.history[-1]["examples/augmented"]["count"] == 24
    model = next(a for a in server.artifacts if a["artifactTypeName"] == "model")
    assert {entry["alias"] for entry in model["aliases"]} == {"latest", "best"}
    assert model["is_committed"]
    weights = (run.directory / "model.safetensors").read_bytes()
    assert weights in server.files.values()
    assert any("system.proc.memory.rssMB" in event for event in seen.events)
    assert seen.exit_codes == [0] and not server.unknown and not server.alerts
    assert "W&B: " not in run.text().replace(f"W&B: {server.url}", "")
    checkpoint = next((run.directory / "checkpoints").glob("*/state.json"))
    assert [json.loads(checkpoint.read_text())["wandb_id"]] == list(server.runs)


def test_a_stop_is_told_as_a_preemption_and_no_signal_to_all_processes_hides_it(
    jobs: Jobs, server: WandbServer
) -> None:
    job = jobs.start(ONLINE, environment=server.environment())
    hold_until(job, lambda: "UpsertBucket" in server.asked)
    everyone = [psutil.Process(job.main.process.pid), *family(job)]
    assert "wandb-core" in [process.name() for process in everyone]
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM):
        for process in everyone:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
    job.expect(75)
    assert server.run.preempted and server.run.exit_codes == [75]
    (alert,) = server.alerts
    assert "preempted" in json.dumps(alert) and "stopped by SIG" in json.dumps(alert)
    lines = (job.directory / "metrics.jsonl").read_text().splitlines()
    assert len(server.run.history) == len(lines)


def test_a_failure_is_told_with_its_reason(jobs: Jobs, server: WandbServer) -> None:
    explosive = ("optimizer.name=sgd", "optimizer.lr=1e6", "train.clip_norm=0")
    later = "log.every_steps=50"  # Before that nobody looks at the loss.
    job = jobs.start(ONLINE, *explosive, later, environment=server.environment())
    hold_until(job, lambda: "UpsertBucket" in server.asked).expect(1)
    assert server.run.exit_codes == [1]
    assert "no checkpoint holds it" in json.dumps(server.alerts)


def test_track_says_by_its_exit_code_whether_the_run_is_free_and_whether_all_has_arrived(
    jobs: Jobs, server: WandbServer
) -> None:
    job = jobs.start(OFFLINE)
    begun, run = has_segment(job), str(job.directory)
    hold(job)
    # One process at a time feeds a run's trackers.
    let_go_when(job, lambda: begun() and "another job is using" in refusal(track(run, OFFLINE)))
    job.expect(0)
    nowhere = server.environment() | {"WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    failed = track(run, ONLINE, environment=nowhere)
    assert failed.returncode == 1 and failed.stderr.startswith(f"failed: {run}: not everything")
    assert "connection refused" in failed.stdout
    assert track(run, ONLINE, environment=server.environment()).returncode == 0
    check_arrived(server.run, TRAIN_STEPS)


def test_variables_that_say_the_same_or_only_where_change_nothing_outside_the_run(
    jobs: Jobs, tmp_path: Path
) -> None:
    same = {"WANDB_MODE": "offline", "WANDB_PROJECT": "lenet-dist", "WANDB_NAME": "run"}
    others = {"WANDB_DIR": "/nowhere", "WANDB_RESUME": "never", "WANDB_SILENT": "false"}
    run = jobs.start("wandb.mode=auto", environment=same | others)
    hold_until(run, has_segment(run)).expect(0)
    assert [r.get("train/step") for r in history(run.directory)][:3] == TRAIN_STEPS[:3]
    assert re.search(r"kept offline.*wandb sync \S+/run/wandb$", told(run))
    assert not (tmp_path / "home").exists()


def _be_a_user_without_a_home(run: str) -> None:
    for name in ("HOME", "LOGNAME", "USER"):
        os.environ.pop(name, None)
    os.setuid(12345)
    settle_environment(Path(run))
    assert Path.home() == Path(run, "wandb") and getpass.getuser() == "12345"


def test_a_user_without_a_name_or_a_home_is_tracked_all_the_same(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("needs root, to be another user")
    process = fork(_be_a_user_without_a_home, str(tmp_path))
    process.join(PATIENCE)
    assert process.exitcode == 0
