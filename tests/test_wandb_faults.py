"""Whatever happens to W&B, training does not notice, and nothing is lost."""

from __future__ import annotations

import functools
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.disk import mounted
from tests.follower import family, has_segment, hold, hold_until, let_go_when
from tests.outcome import check_harmless
from tests.processes import PATIENCE, TRAIN_STEPS, Job, Jobs, free_port
from tests.wandb_run import check_arrived, check_upload, history, is_offline, told
from tests.wandb_server import WandbServer

OFFLINE, ONLINE = "wandb.mode=offline", "wandb.mode=online"
pytestmark = [pytest.mark.timed(seconds=255), pytest.mark.usefixtures("home_without_keys")]


NEVER_THERE = {
    "no key": "no key for http://127.0.0.1",
    "wrong key": "401",
    "refused": "connection refused",
    "silent": "context deadline exceeded",
    "500": "HTTP 500",
}
"""What may be wrong with a server from the start, and what the terminal says of it."""

LOST = {"gone": "not done in 27 s", "mute": "not done in 27 s", "refusing": "403"}
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
    assert "restarted after" in told(job)
    if mode == ONLINE:
        check_arrived(server.run, TRAIN_STEPS)
    else:
        check_upload(job, server, TRAIN_STEPS)


@pytest.mark.parametrize(("mode", "free"), [(OFFLINE, 40_000), (ONLINE, 0)])
def test_a_full_disk_under_wandbs_files_changes_nothing(
    jobs: Jobs, uninterrupted: Job, server: WandbServer, mode: str, free: int
) -> None:
    with mounted(jobs.folder / "run" / "wandb", "64k") as disk:
        filler = disk / "filler"
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            file.write(bytes(65536 - free))
        job = jobs.run(mode, environment=server.environment())
        check_harmless(job, uninterrupted)
        assert "No space left" in told(job) or "disk is full" in told(job)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        filler.unlink()
        check_upload(job, server, TRAIN_STEPS)


def test_the_trackers_process_gives_way_and_never_holds_up_the_page(jobs: Jobs) -> None:
    job = jobs.start(OFFLINE, "log.report=true")
    job.until(lambda: len(family(job)) > 0)
    follower = family(job)[0]
    job.until(lambda: follower.nice() > psutil.Process().nice())
    hold_until(job, has_segment(job))
    follower.suspend()
    job.until((job.directory / "report.html").exists)
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
    assert tested["test/mistakes.nrows"] > 0 and tested["examples/augmented.count"] == 24


def test_a_trackers_process_that_hangs_holds_up_the_end_for_30_seconds_at_most(jobs: Jobs) -> None:
    job = jobs.start(OFFLINE)
    job.until(lambda: len(family(job)) > 0)
    follower = family(job)[0]
    follower.suspend()
    # Made just before it is told that the run is complete.
    job.until((job.directory / "wandb" / "sample-images.npz").exists)
    began = time.monotonic()
    follower.wait(PATIENCE)
    assert 25 < time.monotonic() - began < 31
    assert "its process ended with -9" in told(job.expect(0))
