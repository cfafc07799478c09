"""Names, keys, settings and ids that W&B sees with other eyes: the history and the end arrive."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands import command, forked, succeeded
from tests.follower import has_segment, hold_until
from tests.outcome import check_harmless
from tests.processes import ROOT, SMALL, TRAIN_STEPS, Job, Jobs
from tests.wandb_run import check_arrived, history, told
from tests.wandb_server import KEY, WandbServer

OFFLINE, ONLINE = "wandb.mode=offline", "wandb.mode=online"
pytestmark = [pytest.mark.timed(seconds=115), pytest.mark.usefixtures("home_without_keys")]


def test_a_name_that_no_artifact_can_have_loses_nothing(jobs: Jobs, server: WandbServer) -> None:
    name = "größe-ж" + "n" * 200  # Neither its letters nor its length.
    job = jobs.start(ONLINE, f"run.name={name!r}", name=name, environment=server.environment())
    hold_until(job, lambda: "UpsertBucket" in server.asked).expect(0)
    check_arrived(server.run, TRAIN_STEPS)
    assert server.run.exit_codes == [0]
    assert server.run.fields["displayName"] == name
    (model,) = [a for a in server.artifacts if a["artifactTypeName"] == "model"]
    assert model["is_committed"]


def test_a_server_that_takes_no_artifact_gets_the_history_and_the_end(
    jobs: Jobs, uninterrupted: Job, server: WandbServer
) -> None:
    server.refused.add("CreateArtifact")
    job = jobs.start(ONLINE, environment=server.environment())
    hold_until(job, lambda: "UpsertBucket" in server.asked)
    check_harmless(job.expect(0), uninterrupted)
    check_arrived(server.run, TRAIN_STEPS)
    assert server.run.exit_codes == [0]


FROM_NETRC = """
import os, sys
from lenet_dist.track.environment import settle_environment
from pathlib import Path
settle_environment(Path(sys.argv[1]))
from lenet_dist.track.wandb import _mode_of_wandbs_own
print(*_mode_of_wandbs_own())
"""


def mode_of_wandbs_own(run: Path, folder: Path) -> str:
    """What `auto` comes to in a folder, with W&B's default server."""
    run.mkdir(exist_ok=True)
    around = {"PYTHONPATH": str(ROOT)}
    done = command("python", "-c", FROM_NETRC, str(run), environment=around, folder=folder)
    return succeeded(done).stdout.strip()


def test_a_key_is_found_under_every_host_where_wandb_finds_it(tmp_path: Path) -> None:
    assert mode_of_wandbs_own(tmp_path / "run", tmp_path).startswith("offline no key for https://")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    assert mode_of_wandbs_own(tmp_path / "run", tmp_path) == "online"


@pytest.mark.parametrize("word", ["offline", "disabled"])
def test_a_run_in_a_folder_where_wandb_was_turned_off_asks_no_server(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.delenv("WANDB_DIR")  # Where `wandb offline` would keep the setting.
    succeeded(command("python", "-m", "wandb", word, folder=tmp_path))
    asked = (*SMALL, f"run.root={tmp_path}", "wandb.mode=auto")
    train = ("python", "-m", "lenet_dist.train", *asked)
    done = succeeded(command(*train, environment=server.environment(), folder=tmp_path))
    if word == "offline":
        assert f"`wandb {word}`" in done.stdout and "wandb sync" in done.stdout
        rows = history(tmp_path / "default")
        assert [row["train/step"] for row in rows if "train/step" in row] == TRAIN_STEPS
    else:
        assert "W&B" not in done.stdout
        assert not history(tmp_path / "default")
    assert not server.asked


def test_a_run_that_was_deleted_on_wandb_goes_on_under_a_new_id_on_request(
    jobs: Jobs, uninterrupted: Job, server: WandbServer
) -> None:
    online = {"environment": server.environment()}
    stopped = jobs.start(ONLINE, **online)
    hold_until(stopped, has_segment(stopped))
    stopped.stop_at(14)
    (deleted,) = server.runs
    del server.runs[deleted]
    server.deleted.add(deleted)
    asked, again = len(server.asked), jobs.start(ONLINE, **online)
    said = told(hold_until(again, lambda: "UpsertBucket" in server.asked[asked:]).stop_at(28))
    assert deleted in said and "--new-id" in said and not server.runs
    succeeded(forked("lenet_dist.track", str(stopped.directory), "--new-id", ONLINE, **online))
    (fresh,) = server.runs
    assert fresh != deleted and 28 in server.run.steps()
    job = jobs.start(ONLINE, **online)
    hold_until(job, has_segment(job))
    check_harmless(job.expect(0), uninterrupted)
    check_arrived(server.run, TRAIN_STEPS)
    starts = (job.directory / "starts.jsonl").read_text().splitlines()
    assert [json.loads(start)["wandb_id"] for start in starts] == [fresh] * 3


REFUSING = """
import os
def refused(*arguments): raise PermissionError(1, "Operation not permitted")
os.nice = os.setpriority = os.sched_setscheduler = refused
"""


def test_where_priorities_are_refused_tracking_goes_on_and_a_stop_is_no_failure(
    jobs: Jobs, server: WandbServer, tmp_path: Path
) -> None:
    """As in gVisor, or behind seccomp."""
    (tmp_path / "sitecustomize.py").write_text(REFUSING)
    around = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    job = jobs.start(ONLINE, environment=server.environment() | around)
    hold_until(job, lambda: "UpsertBucket" in server.asked)
    job.main.send(15)
    job.expect(75)
    assert "tracking:" not in job.text()
    assert server.run.preempted and server.run.exit_codes == [75]
    assert "failed" not in json.dumps(server.alerts)
