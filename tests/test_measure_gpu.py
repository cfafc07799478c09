"""scripts/measure-gpu, rehearsed on a CPU, and what scripts/pack-gpu packs."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lenet_dist.benchmarking.figures import spread
from lenet_dist.benchmarking.gpu import page, session
from lenet_dist.benchmarking.gpu.kernels import _covered
from lenet_dist.benchmarking.gpu.programme import FULL, REHEARSAL, programme
from lenet_dist.exits import RequestError, RunFailed
from tests.processes import ROOT


def measure(out: Path, *options: str, **environment: str) -> str:
    """What a rehearsal prints."""
    asked = ("--out", str(out), "--rehearse", *options)
    done = subprocess.run(
        [sys.executable, "scripts/measure-gpu", *asked], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **environment}, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def results(out: Path) -> dict[str, Any]:
    outcomes: dict[str, Any] = json.loads((out / "results.json").read_text())["results"]
    return outcomes


def test_a_rehearsal_measures_all_that_does_not_fail_and_nothing_twice(
    mnist: Path, tmp_path: Path
) -> None:
    # Without time it lists what it would measure.
    assert "not everything is measured" in measure(tmp_path, "--minutes", "0")
    names = [measurement.name for measurement in programme(REHEARSAL, 0)]
    page = (tmp_path / "README.md").read_text()
    assert "Not measured: no time" in page and all(f"- {name}\n" in page for name in names)

    # One that fails stops no other.
    printed = measure(tmp_path, PYTEST_ADDOPTS="--no-such-option")
    assert printed.count("FAILED") == 1 and "not everything is measured" in printed
    first, page = results(tmp_path), (tmp_path / "README.md").read_text()
    assert set(first) == set(names)
    assert [name for name, outcome in first.items() if "failed" in outcome] == ["tests"]
    assert "--no-such-option" in first["tests"]["failed"]
    assert "--no-such-option" in (tmp_path / "failed.log").read_text()
    assert "A rehearsal" in page and "## Failed" in page and "Not measured" not in page
    equal = [line for line in page.splitlines() if line.endswith("| equal |")]
    assert "NOT EQUAL" not in page and len(equal) >= 10
    for kind in ("without the graph", "again", "2 processes", "stopped and resumed"):
        assert any(kind in line for line in equal), kind
    assert all(run["figures"]["resumes"] == 1 for name, run in first.items() if "resume" in name)

    # The next call takes that one again, and no other.
    [line] = measure(tmp_path).splitlines()
    assert line.startswith("tests: ")
    second = results(tmp_path)
    assert "passed" in second["tests"]["figures"]["summary"]
    assert {**second, "tests": None} == {**first, "tests": None}


def test_results_of_two_machines_do_not_mix(tmp_path: Path) -> None:
    machine = {"hardware": {"gpu": "One"}, "memory_gib": 100.0}
    assert session._earlier(tmp_path, machine) is None
    (tmp_path / "results.json").write_text(json.dumps(machine))
    assert session._earlier(tmp_path, {**machine, "memory_gib": 99.9}) == machine
    with pytest.raises(RequestError, match="name another folder"):
        session._earlier(tmp_path, {**machine, "hardware": {"gpu": "Another"}})


RUN = {
    "weights_sha256": "0123456789abcdef", "steps_per_second": spread([200.0, 300.0, 400.0]),
    "batch_size": 256, "train_seconds": 0.7, "first_seconds": 0.2, "total_seconds": 3.0,
    "accuracy": 0.991, "whole": "ab", "parts": "cd", "step_us": 900.0, "least_us": 800.0,
    "greatest_us": 1000.0, "kernels": 101.0, "busy_us": 500.0, "gaps_us": 400.0, "launches": 1.0,
    "most": {"a_kernel": 50.0}, "copy_gb_per_second": 3000.0, "fp32_gigaflops": 5e4,
    "launch_us": 4.0, "graph_us": 5.0, "kernel_in_graph_us": 1.5, "summary": "16 passed",
}  # fmt: skip
"""What any measurement of a whole session might give."""


def test_the_page_of_a_whole_session_on_two_gpus_shows_every_kind_of_result() -> None:
    names = [measurement.name for measurement in programme(FULL, 2)]
    outcomes = {
        name: {
            "figures": {"images_per_second": 2e4} if " at batch " in name else RUN,
            "git_commit": "abc",
        }
        for name in names
    }
    text = page.text(
        {
            "hardware": {"cpu": "A CPU", "cores": 16, "gpus": 2, "gpu": "A GPU"}, "driver": "580",
            "memory_gib": 100.0, "versions": {"torch": "2.11"}, "commands": ["measure"],
            "rehearsal": False, "not_measured": [], "results": outcomes,
        },
        FULL,
    )  # fmt: skip
    for row in (
        "2 x A GPU, driver 580",
        "commit: abc",
        "| default, bf16, graph, fixed | 2 processes, a GPU each | 0123456789ab | equal |",
        "| default, fp32, graph, fixed | stopped and resumed | ab | NOT EQUAL: cd |",
        "| best, fp16, no graph, ddp | 256 | 300.00 | 76,800 | 1 | 0123456789ab |",
        "| default, bf16, graph, ddp / default, fp32, graph, ddp | 1.00 | 1.00 to 1.00 | 5 |",
        "| default, fp32, graph, fixed | 900 (800 to 1,000) | 101 | 500 | 400 | 1 | 155 |",
        "| default, fp32, no graph, fixed | 900 (800 to 1,000) | 101 | 500 | 400 | 1 | 404 |",
        "99.10% (99.10% to 99.10%) | 30 | 30 reached it |",
        "| batch 4096 | bare loop | 20,000 (20,000 to 20,000) |",
    ):
        assert row in text, f"{row}\n{text}"


def test_names_are_those_of_one_measurement_each() -> None:
    for gpus in (1, 8):
        names = [measurement.name for measurement in programme(FULL, gpus)]
        assert len(set(names)) == len(names)


def test_kernels_that_overlap_keep_a_device_busy_once() -> None:
    assert _covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.0, 2.0)]) == 4.0


PACK = runpy.run_path(str(ROOT / "scripts" / "pack-gpu"))


def test_a_pack_too_large_to_travel_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wheels").mkdir()
    with open(tmp_path / "wheels" / "a.whl", "wb") as file:
        file.truncate(59 * 2**20)
    PACK["check_size"](tmp_path)
    assert "59.00 MiB" in capsys.readouterr().out
    with open(tmp_path / "b.whl", "wb") as file:
        file.truncate(2 * 2**20)
    with pytest.raises(RunFailed, match=r"61\.0 MiB, more than 60: name in --there"):
        PACK["check_size"](tmp_path)
    assert [line.split()[2] for line in PACK["listing"](tmp_path).splitlines()] == [
        "wheels/a.whl", "b.whl",
    ]  # fmt: skip


def test_what_the_machine_has_stays_out_of_the_pack_with_what_only_it_needs() -> None:
    packed = PACK["with_their_own"](["matplotlib>=3", "accelerate"], {"torch"}, "3.12")
    names = {line.partition("==")[0] for line in packed}
    assert {"matplotlib", "contourpy", "accelerate", "huggingface-hub"} <= names
    assert "torch" not in names and "sympy" not in names
    packed = PACK["with_their_own"](["matplotlib>=3"], {"matplotlib"}, "3.12")
    assert not packed
