"""The W&B Report tells the page's story, and is the same report however often it is published."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.commands import forked, seconds_here
from tests.outcome import result
from tests.processes import Jobs, free_port
from tests.wandb_server import ENTITY, WandbServer

pytestmark = [pytest.mark.timed(seconds=50), pytest.mark.usefixtures("home_without_keys")]

PROJECT = f"{ENTITY}/lenet-dist"


@pytest.fixture(scope="session")
def made(shared_jobs: Jobs) -> list[Path]:
    """Two seeds of SMALL. Without weights the pages have no pictures, which take seconds."""
    started = [
        shared_jobs.start(f"seed={seed}", name=f"seed-{seed}", world_size=1 + seed)
        for seed in range(2)
    ]
    directories = [job.expect(0).directory for job in started]
    for directory in directories:
        (directory / "model.safetensors").unlink()
    return directories


@pytest.fixture
def runs(made: list[Path], tmp_path: Path) -> list[Path]:
    """The same, never published."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in made]


def report(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(argument) for argument in arguments]
    return forked("lenet_dist.report", *words, environment=environment)


def publish(runs: list[Path], server: WandbServer, out: Path) -> str:
    """Publish; gives the address that was printed."""
    done = report(*runs, "--out", out, "--wandb", PROJECT, **server.environment())
    assert done.returncode == 0 and done.stderr == "", done.stderr
    page, address = done.stdout.split()
    assert page == str(out)
    assert server.unknown == []
    return address


def values(spec: Any, name: str) -> list[Any]:
    """Everything in a spec that goes by this name, in order."""
    if isinstance(spec, list):
        return [found for item in spec for found in values(item, name)]
    if not isinstance(spec, dict):
        return []
    here = [spec[name]] if name in spec else []
    return here + [found for item in spec.values() for found in values(item, name)]


def wandb_id(run: Path) -> str:
    identity: str = json.loads((run / "starts.jsonl").read_text().splitlines()[-1])["wandb_id"]
    return identity


def test_a_report_of_a_run_has_its_result_curves_mistakes_and_command(
    runs: list[Path], server: WandbServer, tmp_path: Path
) -> None:
    address = publish(runs[:1], server, tmp_path / "page.html")
    ((identity, sent),) = server.reports.items()
    assert address.startswith(f"{server.url}/{PROJECT}/reports/") and address.endswith(identity)
    assert (sent["entityName"], sent["projectName"]) == (ENTITY, "lenet-dist")
    spec, found = json.loads(sent["spec"]), result(runs[0])
    text = json.dumps(spec, ensure_ascii=False)
    assert f"{found['test']['accuracy']:.2%}" in sent["displayName"] and "seed-0" in text
    assert f"{found['test']['correct']:,} of {found['test']['count']:,}" in text
    assert found["weights_sha256"] in text
    assert "accelerate launch -m lenet_dist.train" in text and "train.max_steps=60" in text
    drawn = {metric for metrics in values(spec, "metrics") for metric in metrics}
    assert {"train/loss", "validation/accuracy", "train/lr", "train/samples_per_second"} <= drawn
    assert not [metric for metric in drawn if metric.startswith("ranks/")], "it has but one"
    assert set(values(spec, "xAxis")) >= {"train/step", "validation/step"}
    assert "test/confusion_table" in text and "test/mistakes" in text
    assert ["examples/augmented"] in values(spec, "mediaKeys")
    runsets = [runset for runsets in values(spec, "runSets") for runset in runsets]
    (filters,) = {json.dumps(runset["filters"]) for runset in runsets}
    assert wandb_id(runs[0]) in filters and wandb_id(runs[1]) not in filters


def test_several_runs_stand_side_by_side_in_a_report_that_is_the_same_when_published_again(
    runs: list[Path], server: WandbServer, tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    first = publish(runs, server, out)
    assert publish(runs[::-1], server, out) == first
    (sent,) = server.reports.values()
    publish(runs[:1], server, out)
    assert len(server.reports) == 2, "of other runs, it is another report"
    spec = json.loads(sent["spec"])
    text = json.dumps(spec, ensure_ascii=False)
    assert "standard deviation over 2 seeds" in text
    assert all(run.name in text and wandb_id(run) in text for run in runs)
    assert "Run Comparer" in values(spec, "viewType")
    metrics = values(spec, "metrics")
    assert ["test/accuracy"] in metrics and ["ranks/waited_ms/median"] in metrics
    assert ["ranks/computed_ms/slowest", "ranks/computed_ms/median"] in metrics


def refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    assert done.returncode == code, done.stderr
    assert said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_what_is_missing_is_named(runs: list[Path], server: WandbServer, tmp_path: Path) -> None:
    page = (runs[0], "--out", tmp_path / "page.html")
    known = server.environment()
    refused(report(*page, "--wandb", "lenet-dist", **known), 2, "write ENTITY/PROJECT")
    refused(report(*page, "--wandb", f"{ENTITY}/other", **known), 2, "there is no project")
    no_key = report(*page, "--wandb", PROJECT, WANDB_BASE_URL=server.url)
    refused(no_key, 2, "no key for W&B: set WANDB_API_KEY")
    wrong = known | {"WANDB_API_KEY": "9" * 40}
    refused(report(*page, "--wandb", PROJECT, **wrong), 2, "W&B refuses the key")
    assert server.reports == {}
    assert (tmp_path / "page.html").exists()


def test_a_server_that_is_not_to_be_had_is_a_reason_and_no_long_wait(
    runs: list[Path], tmp_path: Path
) -> None:
    with WandbServer() as silent, WandbServer() as broken:
        silent.goes_on.clear()
        broken.status = 500
        key = broken.environment()
        gone = key | {"WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}"}
        page = (runs[0], "--out", tmp_path / "page.html", "--wandb", PROJECT)
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:  # Nearly all of it is waiting.
            tried = [
                pool.submit(report, *page, **environment)
                for environment in (gone, silent.environment(), key)
            ]
            for done in tried:
                refused(done.result(), 1, "W&B can't be reached")
        assert time.monotonic() - began < seconds_here(90)
