"""The benchmark, as users type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from lenet_dist import benchmark
from lenet_dist.benchmarking import measurements, session, table
from lenet_dist.benchmarking.contenders import LOOPS
from lenet_dist.benchmarking.figures import spread
from lenet_dist.benchmarking.targets import TARGETS, judge
from lenet_dist.exits import RequestError
from lenet_dist.reporting import speeds
from tests.commands import command, forked, refusal
from tests.processes import PATIENCE, ROOT

BENCHMARK = ("-m", "lenet_dist.benchmark")


def entry(*images_per_second: float) -> dict[str, Any]:
    return {"images_per_second": spread(images_per_second), "peak_mib": spread([512.0])}


def a_report() -> dict[str, Any]:
    """As if the speed at batch 64 had been measured, twice."""
    case = {
        "job": entry(30.0, 40.0),
        "seed_loop": entry(10.0, 10.0),
        "accelerate_loop": entry(20.0, 16.0),
        "lightning": {"not_measured": "pip install 'lenet_dist[lightning]'"},
    }
    groups = {"speed": {"batch 64": case}}
    outcomes = [judge(groups, target) for target in TARGETS]
    return {
        "command": "python -m lenet_dist.benchmark --rounds 2",
        "rounds": 2,
        "groups": groups,
        "targets": [{**outcome.as_json(), "verdict": outcome.verdict} for outcome in outcomes],
        "hardware": {"cpu": "A CPU", "cores": 2, "gpus": 0, "gpu": None},
        "versions": {"torch": "2.0", "python": "3.11"},
    }


def test_a_target_is_met_by_the_ratio_of_the_medians() -> None:
    report = a_report()
    seed, accelerate, bare = report["targets"][:3]
    assert (seed["ratio"], seed["rounds"], seed["met"]) == (3.5, [3.0, 4.0], True)
    assert (accelerate["ratio"], accelerate["met"]) == (35 / 18, False)
    assert (bare["ratio"], bare["met"]) == (None, None)


def test_the_table_has_every_target_beside_its_measured_ratio() -> None:
    lines = table.for_terminal(a_report()).splitlines()
    for target in TARGETS:
        assert any(target.name in line and target.bound_text in line for line in lines)
    [met] = [line for line in lines if "job / seed loop" in line and "images/s" in line]
    assert "3.50" in met and "3.00 to 4.00" in met and met.endswith(" met")
    assert any("job / Accelerate loop" in line and "NOT MET" in line for line in lines)
    assert any("lightning" in line and "pip install" in line for line in lines)
    assert "n = 2 rounds" in lines[-1] and "A CPU, 2 cores" in lines[-1]


def test_the_plot_names_its_contenders_and_its_unit() -> None:
    svg = speeds.draw(a_report())
    ET.fromstring(svg)
    assert svg.count("<!--") >= 5
    for text in ("seed loop", "accelerate loop", "batch 64", "training images a second"):
        assert text in svg


@pytest.fixture(scope="module")
def data(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST where torchvision looks for it too."""
    folder = tmp_path_factory.mktemp("data")
    session.provide_files(str(mnist), folder)
    return folder


@pytest.mark.parametrize("name", LOOPS)
def test_every_contender_takes_a_trial_and_leaves_its_figures(
    name: str, data: Path, tmp_path: Path
) -> None:
    trial = ("--contender", name, "--data-root", str(data), "--folder", str(tmp_path))
    sizes = ("--batch-size", "64", "--warm-up", "1", "--steps", "2")
    done = forked("lenet_dist.benchmark", *trial, *sizes)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_per_second"] > 0
    assert result["threads"] >= 1 and result["device"]


def test_a_group_is_measured_in_turn_and_compared(mnist: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    page = tmp_path / "README.md"
    page.write_text("Before.\n<!-- figures -->\nold\n<!-- /figures -->\nAfter.\n")
    request = ("--rounds", "1", "--only", "start", "--data-root", str(mnist), "--json", str(file))
    # Trials must not take themselves for one of two tasks, nor take on a number of threads.
    threads = (os.cpu_count() or 1) + 1
    around = {"WORLD_SIZE": "2", "SLURM_STEP_ID": "0", "OMP_NUM_THREADS": str(threads)}
    done = command("python", *BENCHMARK, *request, "--page", str(page), environment=around)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["command"].endswith(f"--page {page}")
    contenders = report["groups"]["start"]["first step"]
    assert contenders.keys() >= {"job", "imports", "seed_loop", "accelerate_loop", "lightning"}
    assert contenders["job"]["threads"] < threads
    job, imports = (contenders[name]["first_step_seconds"] for name in ("job", "imports"))
    [target] = [target for target in report["targets"] if target["ratio"] is not None]
    assert target["ratio"] == job["median"] / imports["median"]
    assert 100 < contenders["job"]["peak_mib"]["min"] < 10_000
    assert {"torch", "torchvision", "accelerate", "python"} <= report["versions"].keys()
    assert target["name"] in done.stdout and target["name"] in page.read_text()
    assert page.read_text().startswith("Before.") and page.read_text().endswith("After.\n")


def test_what_was_measured_before_an_interruption_is_kept(mnist: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    groups = "time_to_accuracy,evaluation"  # The one with the fewest trials, and any other.
    request = ("--rounds", "1", "--steps", "1", "--only", groups, "--data-root", str(mnist))
    process = subprocess.Popen(
        [sys.executable, *BENCHMARK, *request, "--json", str(file)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "99.0% test, seed_loop_to_accuracy" in line:  # The last of its group.
            time.sleep(0.5)
            process.terminate()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    kept = "time_to_accuracy: measured before that, and kept"
    assert errors.startswith(f"failed: interrupted\n{kept}")
    report = json.loads(file.read_text())
    assert report["groups"].keys() == {"time_to_accuracy"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--rounds", "0"), "--rounds"),
        (("--steps=many",), "--steps"),
        (("--only", "spead"), "spead"),
        (("--only", "start", "--plot", "plot.svg"), "--plot"),
        (("train.epochs=3",), "train.epochs=3"),
        (("--json", "nowhere/figures.json"), "nowhere/figures.json"),
        (("--page", "README.md"), "<!-- figures -->"),
        (("--data-root", "/dev/null"), "/dev/null"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(command("python", *BENCHMARK, *arguments))


def test_without_the_repositorys_config_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "CONFIGS", tmp_path)
    with pytest.raises(RequestError, match=r"seed\.yaml: not found"):
        benchmark.main([])


def test_a_recipe_that_training_would_refuse_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "seed.yaml").write_text("train:\n  epochs: 1\n")
    (tmp_path / "fast.yaml").write_text("train:\n  epochs: 0\n")
    monkeypatch.setattr(session, "CONFIGS", tmp_path)
    with pytest.raises(RequestError, match=r"train\.epochs=0"):
        benchmark.main([])


def test_the_plot_of_the_same_figures_is_the_same() -> None:
    assert speeds.draw(a_report()) == speeds.draw(a_report())


def test_groups_are_measured_in_their_order_whatever_the_order_asked_for() -> None:
    assert benchmark._groups("start,speed") == ("speed", "start")
    assert set(measurements.GROUPS) >= {"speed", "start"}
