"""The benchmark, as users type it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lenet_dist import benchmark
from lenet_dist.exits import RequestError
from tests.processes import command

BENCHMARK = ("-m", "lenet_dist.benchmark")


def test_both_contenders_are_measured_and_compared(mnist: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    request = ("--rounds", "1", "--steps", "3", "--data-root", str(mnist), "--json", str(file))
    # Trials must not take themselves for one of two tasks, nor take on a number of threads.
    threads = (os.cpu_count() or 1) + 1
    around = {"WORLD_SIZE": "2", "SLURM_STEP_ID": "0", "OMP_NUM_THREADS": str(threads)}
    done = command("python", *BENCHMARK, *request, environment=around)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["command"].endswith(f"--json {file}")
    assert (report["rounds"], report["steps"], report["batch_size"]) == (1, 3, 64)
    assert report["contenders"].keys() == {"job", "seed_loop"}
    for contender in report["contenders"].values():
        speed, peak = contender["images_per_second"], contender["peak_mib"]
        assert speed["rounds"] == [speed["median"]] and speed["median"] > 0
        assert 100 < peak["min"] == peak["max"] < 10_000
        assert contender["threads"] < threads
    job, loop = (report["contenders"][name]["images_per_second"] for name in ("job", "seed_loop"))
    ratio = report["ratios"]["seed_loop"]
    assert ratio["of_medians"] == job["median"] / loop["median"]
    assert ratio["min"] == ratio["max"] == ratio["of_medians"]
    assert {"torch", "torchvision", "accelerate", "python"} <= report["versions"].keys()
    assert report["hardware"]["cpu"] and report["hardware"]["cores"] >= 1
    assert f"job / seed_loop: {ratio['of_medians']:.2f} times" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--rounds", "0"), "--rounds"),
        (("--steps=many",), "--steps"),
        (("train.epochs=3",), "train.epochs=3"),
        (("--json", "nowhere/figures.json"), "nowhere/figures.json"),
        (("--data-root", "/dev/null"), "/dev/null"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], named: str
) -> None:
    refused = command("python", *BENCHMARK, *arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert named in refused.stderr


def test_without_the_repositorys_config_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "_CONFIG", tmp_path / "seed.yaml")
    with pytest.raises(RequestError, match=r"seed\.yaml: not found"):
        benchmark.main([])
