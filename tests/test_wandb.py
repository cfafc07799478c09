"""W&B sees one run, whole and in order, and whatever happens to it, training does not notice."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.disk import mounted
from tests.follower import family, has_segment, hold, hold_until, let_go_when
from tests.outcome import check_harmless, result
from tests.processes import TRAIN_STEPS, Job, Jobs, command, free_port
from tests.wandb_server import StoredRun, WandbServer

OFFLINE, ONLINE = "wandb.mode=offline", "wandb.mode=online"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as serving:
        yield serving


@pytest.fixture(autouse=True)
def home_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's keys are used, and the logs of `wandb sync` don't lie about."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "commands"))


def records(run: Path) -> list[dict[str, Any]]:
    """What W&B's own reader finds in the run's segments, in the order of their starts."""
    folders = sorted((run / "wandb").glob("*run-*-*"), key=lambda f: f.name.split("run-")[1])
    read = [command("python", "-m", "wandb", "leet", "inspect", "--json", str(f)) for f in folders]
    return [json.loads(text) for done in read for text in done.stdout.splitlines()]


def history(run: Path) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records(run) if r["type"] == "history"]


def is_offline(job: Job) -> bool:
    """Whether W&B has begun to write a segment that is not for a server."""
    return any((job.directory / "wandb").glob("offline-run-*/*.wandb"))


def told(job: Job) -> str:
    """The one thing that the terminal says of W&B, beside where the run is to be seen."""
    known = ("W&B:", "tracking:")
    lines = [line for line in job.text().splitlines() if line.startswith(known)]
    lines = [line for line in lines if not line.startswith("W&B: http")]
    assert len(lines) == 1, job.text()
    return lines[0]


def check_upload(job: Job, server: WandbServer, steps: list[int]) -> None:
    """The command that the terminal named brings the whole run to a server that is well."""
    arguments = shlex.split(told(job).split("upload later with: ")[1])
    done = command(*arguments, environment=server.environment())
    assert done.returncode == 0, done.stderr
    check_arrived(server.run, steps)
    assert not server.unknown


def check_arrived(run: StoredRun, steps: list[int]) -> None:
    assert run.steps("train") == steps
    assert run.steps("validation") == [*range(39, steps[-1], 39), steps[-1]]
    assert run.steps("test") == [steps[-1]]
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert run.summary["test/accuracy"] > 0.9


NEVER_THERE = {
    "no key": "no key for http://127.0.0.1",
    "wrong key": "401",
    "refused": "connection refused",
    "silent": "context deadline exceeded",
    "500": "HTTP 500",
}
"""What may be wrong with a server from the start, and what the terminal says of it."""

LOST = {"gone": "not done in 27 s", "mute": "not done in 27 s", "refusing": "error 403"}
"""The same for one that was well when the run began."""


Faulty = dict[str, tuple[Job, WandbServer]]


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A run for each of these faults."""
    yield from start_together(LOST, tmp_path_factory.mktemp("lost"))


@pytest.fixture(scope="module")
def never_there(lost: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """A run for each of these faults; the lost ones wait meanwhile."""
    yield from start_together(NEVER_THERE, tmp_path_factory.mktemp("never_there"))


def start_together(faults: dict[str, str], folder: Path) -> Iterator[Faulty]:
    """A run for each fault, all at once: most of their time is waiting."""
    with Jobs(folder) as jobs, ExitStack() as serving:
        servers = {fault: serving.enter_context(WandbServer()) for fault in faults}
        started = {fault: (start_faulty(jobs, fault, at), at) for fault, at in servers.items()}
        for fault, (job, _) in started.items():
            if fault in NEVER_THERE:
                let_go_when(job, functools.partial(is_offline, job))
        yield started


def start_faulty(jobs: Jobs, fault: str, server: WandbServer) -> Job:
    environment = server.environment()
    mode = ONLINE
    match fault:
        case "no key":
            del environment["WANDB_API_KEY"]
            mode = "wandb.mode=auto"
        case "wrong key":
            environment["WANDB_API_KEY"] = "f" * 40
        case "refused":
            environment["WANDB_BASE_URL"] = f"http://127.0.0.1:{free_port()}"
        case "silent":
            server.goes_on.clear()
        case "500":
            server.status = 500
    job = jobs.start(mode, name=fault.replace(" ", "-"), environment=environment)
    if fault in LOST:
        hold_until(job, lambda: "UpsertBucket" in server.asked)
    else:
        hold(job)
    match fault:
        case "gone":
            server.stop()
        case "mute":
            server.goes_on.clear()
        case "refusing":
            server.status = 403
    return job


@pytest.mark.parametrize("fault", NEVER_THERE)
def test_a_server_that_is_not_to_be_had_changes_nothing_and_can_be_told_later(
    never_there: Faulty, uninterrupted: Job, fault: str
) -> None:
    job, server = never_there[fault]
    check_harmless(job.expect(0), uninterrupted)
    assert NEVER_THERE[fault] in told(job) and "wandb sync" in told(job)
    server.status = 200
    server.goes_on.set()
    check_upload(job, server, TRAIN_STEPS)


@pytest.mark.parametrize("mode", [OFFLINE, ONLINE])
def test_three_interruptions_on_two_processes_give_one_history_of_each_line_once_in_order(
    jobs: Jobs, uninterrupted: Job, server: WandbServer, mode: str
) -> None:
    how = {"world_size": 2, "environment": server.environment()}
    stopped = jobs.start(mode, **how)
    stopped.until_step(14)
    for rank in stopped.ranks:
        rank.send(signal.SIGTERM)
    stopped.expect(75)
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
    # Each train row tells how long both ranks computed and waited in a step.
    *_, written = (last.directory / "ranks.jsonl").read_text().splitlines()
    *_, row = [row for row in server.run.history if "train/step" in row]
    of_ranks = json.loads(written)
    for rank, seconds in enumerate(of_ranks["computed"]):
        told = row[f"ranks/computed_ms/rank_{rank}"]
        assert told == pytest.approx(1e3 * seconds / of_ranks["steps"])
    assert all("ranks/waited_ms/rank_1" in row for row in server.run.history if "train/lr" in row)


@pytest.mark.parametrize("fault", LOST)
def test_a_server_that_is_lost_on_the_way_changes_nothing_and_can_be_told_later(
    lost: Faulty, uninterrupted: Job, fault: str
) -> None:
    job, server = lost[fault]
    check_harmless(job.expect(0), uninterrupted)
    assert LOST[fault] in told(job)
    with WandbServer() as recovered:
        recovered.runs = server.runs
        check_upload(job, recovered, TRAIN_STEPS)


def test_a_run_is_described_as_a_whole(jobs: Jobs, server: WandbServer) -> None:
    described = ("wandb.group=seeds", "wandb.tags=[a,b]", "run.name=seed-3")
    run = jobs.start(ONLINE, *described, name="seed-3", environment=server.environment())
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
    assert seen.history[-1]["examples/augmented"]["width"] == 8 * 28
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


def test_the_followers_end_with_a_run_that_is_killed(jobs: Jobs) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    where = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40}
    job = jobs.start(ONLINE, environment=where)
    hold_until(job, has_segment(job))
    followers = family(job)
    job.main.send(signal.SIGKILL)
    _, alive = psutil.wait_procs(followers, timeout=60)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("mode", [OFFLINE, ONLINE])
def test_the_death_of_wandbs_own_process_changes_nothing(
    jobs: Jobs, uninterrupted: Job, server: WandbServer, mode: str
) -> None:
    job = jobs.start(mode, environment=server.environment())
    hold_until(job, has_segment(job))
    next(process for process in family(job) if process.name() == "wandb-core").kill()
    job.expect(0)
    check_harmless(job, uninterrupted)
    if mode == ONLINE:
        assert "restarted after" in told(job)
        check_arrived(server.run, TRAIN_STEPS)
    else:
        assert "restarted after" in told(job)
        check_upload(job, server, TRAIN_STEPS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KB where W&B keeps its files."""
    with mounted(tmp_path / "run" / "wandb", "64k") as disk:
        yield disk


@pytest.mark.parametrize(("mode", "free"), [(OFFLINE, 40_000), (ONLINE, 0)])
def test_a_full_disk_under_wandbs_files_changes_nothing(
    jobs: Jobs, uninterrupted: Job, server: WandbServer, small_disk: Path, mode: str, free: int
) -> None:
    filler = small_disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        file.write(bytes(65536 - free))
    job = jobs.run(mode, environment=server.environment())
    check_harmless(job, uninterrupted)
    assert "No space left" in told(job) or "can't write everything" in told(job)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    filler.unlink()
    check_upload(job, server, TRAIN_STEPS)


def test_the_trackers_process_gives_way_until_training_is_over_and_never_holds_it_up(
    jobs: Jobs,
) -> None:
    job = jobs.start(OFFLINE, "log.report=true")
    job.until(lambda: len(family(job)) > 0)
    follower = family(job)[0]
    job.until(lambda: os.sched_getscheduler(follower.pid) == os.SCHED_IDLE)
    hold_until(job, has_segment(job))
    os.sched_setscheduler(follower.pid, os.SCHED_IDLE, os.sched_param(0))
    # While it hangs, and its pipe holds less than what it is told, the page is made.
    follower.suspend()
    with open(f"/proc/{follower.pid}/fd/0") as told_through:
        fcntl.fcntl(told_through, fcntl.F_SETPIPE_SZ, 4096)
    job.until((job.directory / "report.html").exists)
    if os.geteuid() == 0:
        job.until(lambda: os.sched_getscheduler(follower.pid) == os.SCHED_OTHER)
    follower.resume()
    # It was given its pictures, and needs no torch to make them.
    libraries = set()
    with suppress(psutil.NoSuchProcess):
        while follower.is_running() and follower.status() != psutil.STATUS_ZOMBIE:
            libraries |= {mapped.path for mapped in follower.memory_maps()}
            time.sleep(0.01)
    assert any("python" in path for path in libraries)
    assert not any("libtorch" in path for path in libraries)
    assert "W&B: kept offline" in job.expect(0).text()
    (tested,) = [row for row in history(job.directory) if "test/step" in row]
    assert tested["test/mistakes.nrows"] > 0 and tested["examples/augmented.width"] == 8 * 28


def test_a_key_in_netrc_means_online(jobs: Jobs, server: WandbServer, tmp_path: Path) -> None:
    host, key = server.url.removeprefix("http://"), server.environment()["WANDB_API_KEY"]
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {key}\n")
    (tmp_path / "netrc").chmod(0o600)
    job = jobs.start("wandb.mode=auto", environment={"WANDB_BASE_URL": server.url})
    hold_until(job, lambda: "UpsertBucket" in server.asked).expect(0)
    check_arrived(server.run, TRAIN_STEPS)


def test_track_says_by_its_exit_code_whether_all_has_arrived(
    jobs: Jobs, server: WandbServer
) -> None:
    job = jobs.start(OFFLINE)
    run = str(hold_until(job, has_segment(job)).expect(0).directory)
    track = ("python", "-m", "lenet_dist.track", run, ONLINE)
    nowhere = server.environment() | {"WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}
    failed = command(*track, environment=nowhere)
    assert failed.returncode == 1 and failed.stderr.startswith(f"failed: {run}: not everything")
    assert "connection refused" in failed.stdout
    assert command(*track, environment=server.environment()).returncode == 0
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
