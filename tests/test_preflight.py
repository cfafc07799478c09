"""The preflight says what every rank is, sees and can do, and names the one that is not like it."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from lenet_dist.config import Data
from lenet_dist.data import dataset
from tests.commands import seconds_here
from tests.disk import mounted
from tests.processes import Job, Jobs

pytestmark = pytest.mark.processes

MODULE = "lenet_dist.preflight"
BASE = ("data.name=synthetic", "compute.threads=1", "compute.timeout_seconds=60", "--slow", "1000")
"""Machines on which tests run are shared: what is no test of slowness calls little slow."""


def preflight(jobs: Jobs, *overrides: str, **how: Any) -> Job:
    """Ranks of a preflight whose run.root is ``root`` under the test's folder."""
    root = f"run.root={jobs.folder / 'root'}"
    return jobs.start(root, *overrides, name="preflight", base=BASE, module=MODULE, **how)


def findings_of(job: Job) -> list[str]:
    """What the main process gave as the reason of its exit code."""
    return job.main.text().split("failed: ", 1)[1].splitlines()


@pytest.mark.parametrize("world_size", [1, pytest.param(4, marks=pytest.mark.alone)])
def test_ranks_that_are_alike_are_measured_and_pass_and_nothing_is_left(
    jobs: Jobs, tmp_path: Path, world_size: int
) -> None:
    file = tmp_path / "preflight.json"
    # Of four, two are on another node, as far as a launcher there would tell them.
    other_node = {2: {"LOCAL_RANK": "0"}, 3: {"LOCAL_RANK": "1"}}
    job = preflight(
        jobs, "--json", str(file), world_size=world_size, own_environment=other_node
    ).expect(0)
    expected = f"all {world_size} ranks agree" if world_size > 1 else "nothing to compare it with"
    assert job.text().count(expected) == 1
    assert not (tmp_path / "root").exists()
    report = json.loads(file.read_text())
    assert report["world_size"] == world_size and report["findings"] == []
    assert report["slow_factor"] == 1000 and report["seconds"] > 0
    if world_size == 4:
        assert report["seconds"] < seconds_here(30)
    assert [rank["rank"] for rank in report["ranks"]] == list(range(world_size))
    for rank in report["ranks"]:
        assert rank["host"] and rank["device"] and rank["cores"] >= 1 and rank["threads"] == 1
        assert 0 < rank["memory_free"] <= rank["memory_total"]
        assert rank["data_sha256"] == dataset.data_hash(Data(name="synthetic"))
        assert rank["versions"]["torch"] and rank["run_root"] == str(tmp_path / "root")
        assert rank["gigaflops"] > 0 and not rank["failures"]
        assert (rank["link_mb_s"] is None) == (world_size == 1)
        writes = rank["rank"] in (0, 2)
        assert (rank["local_rank"] == 0) == writes
        assert (rank["write_mb_s"] is not None) == writes
    rows = report["all_reduce"]
    assert (len(rows) >= 4) == (world_size > 1)
    for row in rows:
        assert row["calls"] >= 3 and 0 < row["median_us"] <= row["slowest_us"]
        assert row["algorithm_mb_s"] == pytest.approx(row["bytes"] / row["median_us"])
        ring = 2 * (world_size - 1) / world_size
        assert row["bus_mb_s"] == pytest.approx(row["algorithm_mb_s"] * ring)
    assert world_size == 1 or 61_706 * 4 in [row["bytes"] for row in rows]


def test_other_data_and_network_variables_on_a_rank_are_named(jobs: Jobs, mnist: Path) -> None:
    job = preflight(
        jobs, world_size=2,
        environment={"NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "lo"},
        # As by another file behind --config, and another profile, on that rank's node.
        own_overrides={1: ("data.name=mnist", f"data.root={mnist}")},
        own_environment={1: {"NCCL_DEBUG": "WARN", "NCCL_IB_DISABLE": "1"}},
    ).expect(1)  # fmt: skip
    config, data, debug, disable = findings_of(job)
    assert all("rank 1 on " in found for found in (config, data, debug, disable))
    right, wrong = (dataset.data_hash(Data(name=name)) for name in ("synthetic", "mnist"))
    assert f"data (SHA-256): {wrong[:16]}... here, {right[:16]}... on rank 0 on " in data
    assert "config (hash): " in config
    assert "NCCL_DEBUG: WARN here, INFO on rank 0 on " in debug
    assert "NCCL_IB_DISABLE: 1 here, not set on rank 0 on " in disable


def test_a_rank_that_is_throttled_is_named_as_slow(jobs: Jobs) -> None:
    job = preflight(jobs, "--slow", "4", world_size=2)
    job.until(lambda: "preflight: compute" in job.main.text())
    slow = job.ranks[1]
    while "a short training" not in job.main.text() and job.main.process.exitcode is None:
        slow.send(signal.SIGSTOP)
        time.sleep(0.45)
        slow.send(signal.SIGCONT)
        time.sleep(0.025)
    job.expect(1)
    # Whatever is measured meanwhile is slow on it too.
    found = findings_of(job)
    assert all("rank 1 on " in line and "times slower" in line for line in found)
    assert any("compute: " in line for line in found)


def test_a_rank_that_computes_other_bits_is_named_with_the_likely_reason(jobs: Jobs) -> None:
    how = {"world_size": 3, "own_environment": {1: {"ONEDNN_MAX_CPU_ISA": "SSE41"}}}
    job = preflight(jobs, "compute.kernels=torch", **how).expect(1)
    (found,) = [line for line in findings_of(job) if "different bits" in line]
    said = f"rank 1 on {socket.gethostname()} computes different bits than the other 2"
    assert found.strip().startswith(said)
    assert "likely because of" in found and "ONEDNN_MAX_CPU_ISA (SSE41 here" in found


def test_a_run_root_that_is_another_folder_on_a_rank_is_named(jobs: Jobs) -> None:
    other = jobs.folder / "other"
    job = preflight(jobs, world_size=2, own_overrides={1: [f"run.root={other}"]}).expect(1)
    (found,) = findings_of(job)
    assert "rank 1 on " in found and f"{other}: not the folder that rank 0 has" in found
    assert not other.exists()


def test_a_full_disk_is_named_and_nothing_is_left_on_it(jobs: Jobs, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "3m") as disk:  # The preflight writes more.
        alone = preflight(jobs, f"run.root={disk / 'root'}").expect(1)
        assert findings_of(alone)[0].endswith("No space left on device")
        job = preflight(jobs, f"run.root={disk / 'root'}", world_size=2).expect(1)
        (found,) = findings_of(job)
        assert "rank 0 on " in found and found.endswith("No space left on device")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--json", "nowhere/preflight.json"), "--json nowhere/preflight.json: "),
        (("--slow", "1"), "--slow 1"),
        (("run.rot=x",), "run.rot"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    jobs: Jobs, arguments: tuple[str, ...], named: str
) -> None:
    job = preflight(jobs, *arguments).expect(2)
    assert job.text().startswith("error: ") and job.text().count("\n") == 1
    assert named in job.text()


def test_a_kill_leaves_no_more_than_a_file_that_says_whose_it_is(jobs: Jobs) -> None:
    root = jobs.folder / "root"
    root.mkdir()
    job = preflight(jobs, world_size=2)
    job.until(lambda: any(root.iterdir()))
    began = time.monotonic()
    job.main.send(signal.SIGKILL)
    assert job.wait() == [-signal.SIGKILL, 1] and time.monotonic() - began < 60
    assert "rank 1 on " in job.text() and "lost another process" in job.text()
    assert "Traceback" not in job.text()
    assert all(
        file.name.startswith(".preflight-") and file.suffix == ".tmp" for file in root.iterdir()
    )


def test_a_run_root_in_which_folders_can_not_be_renamed_is_named(jobs: Jobs) -> None:
    job = jobs.start(module="tests.altered:without_folder_renames", base=BASE).expect(1)
    said = f"failed: {jobs.folder}: folders can't be renamed there: Operation not supported\n"
    assert said in job.text()
    assert not list(jobs.folder.glob(".preflight*"))
