"""The benchmark, as users type it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from lenet_dist.benchmark import baselines, rounds
from lenet_dist.benchmark.baselines import BASELINES
from lenet_dist.benchmark.cases import GROUPS, Conditions, ratios_of
from lenet_dist.exits import RunFailed
from lenet_dist.request import load
from tests.commands import command, refusal, succeeded
from tests.processes import PATIENCE, fork

pytestmark = pytest.mark.processes

BENCHMARK = ("-m", "lenet_dist.benchmark")


@pytest.fixture(scope="module")
def data(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST where torchvision looks for it too."""
    folder = tmp_path_factory.mktemp("data")
    rounds.provide_files(str(mnist), folder)
    return folder


@pytest.mark.parametrize("name", BASELINES)
def test_a_baselines_trial_leaves_its_figures(name: str, data: Path, tmp_path: Path) -> None:
    process = fork(baselines.main, name, str(data), str(tmp_path), "64", "2")
    process.join(PATIENCE)
    assert process.exitcode == 0
    figures = json.loads((tmp_path / "result.json").read_text())
    assert figures and all(value > 0 for value in figures.values())


def test_the_ratios_asked_for_are_measured_in_turn(mnist: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "figures.json", tmp_path / "table.md"
    request = ("--rounds", "2", "--steps", "1", "--only", "accuracy")
    place = ("--data-root", str(mnist), "--json", str(file), "--out", str(page))
    # Trials must not take themselves for one of two tasks, nor take on a number of threads.
    threads = (os.cpu_count() or 1) + 1
    around = {"WORLD_SIZE": "2", "SLURM_STEP_ID": "0", "OMP_NUM_THREADS": str(threads)}
    done = succeeded(command("python", *BENCHMARK, *request, *place, environment=around))
    report = json.loads(file.read_text())
    assert report["rounds"] == 2 and report["command"].endswith(str(page))
    assert {"torch", "torchvision", "accelerate", "python"} <= report["versions"].keys()
    measured = re.findall(r"^round \d of 2: (.*):", done.stdout, re.MULTILINE)
    assert measured == [*report["figures"], *reversed(report["figures"])]
    assert done.stdout.endswith(page.read_text())
    for ratio in report["ratios"]:
        assert f"\n| {ratio['title']} | " in page.read_text()
        for side in ("over", "under"):
            assert all(of[ratio["figure"]] > 0 for of in report["figures"][ratio[side]])


def test_a_trial_that_fails_is_named_with_what_it_printed() -> None:
    program = "print('the reason', flush=True); raise SystemExit(3)"
    with pytest.raises(RunFailed, match="the case ended with exit code 3:\nthe reason"):
        rounds.take(["-c", program], "the case")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--rounds", "0"), "--rounds"),
        (("--only", "spead"), "spead"),
        (("--json", "nowhere/figures.json"), "nowhere/figures.json"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], named: str
) -> None:
    assert named in refusal(command("python", *BENCHMARK, *arguments))


def test_the_jobs_keys_are_the_schemas(data: Path) -> None:
    for ratio in ratios_of(tuple(set(GROUPS) - {"own_model"}), Conditions(data, None, 0)):
        for case in (ratio.over, ratio.under):
            load(None, [word for word in case.arguments if re.match(r"[a-z_.]+=", word)])
