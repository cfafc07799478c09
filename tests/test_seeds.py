"""scripts/seeds, as users type it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import command, forked, refusal, succeeded
from tests.outcome import has_line, result
from tests.processes import PATIENCE, ROOT, wait_until

pytestmark = pytest.mark.processes


def seeds(folder: Path, *arguments: str, steps: int = 120) -> subprocess.Popen[str]:
    run = (f"train.max_steps={steps}", "checkpoint.every_steps=20", f"run.root={folder}")
    alone = ("wandb.mode=disabled", "log.report=false")
    command = [sys.executable, "scripts/seeds", *arguments, *run, *alone]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """Wait for its end by this exit code; gives what it printed, and its errors."""
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    return printed, errors


def test_seeds_that_were_interrupted_go_on_and_give_the_same_table_again(tmp_path: Path) -> None:
    request = ("configs/smoke.yaml", "3", "--at-once", "2")
    first = seeds(tmp_path, *request)
    both = [tmp_path / f"smoke-seed-{seed}" for seed in range(2)]
    wait_until(lambda: all(has_line(run, 10) for run in both), lambda: first.poll())
    first.send_signal(signal.SIGHUP)
    assert "run the same command again" in end(first, 75)[1]
    assert not (tmp_path / "smoke-seed-2").exists()

    tables = []
    for _ in range(2):
        lines = end(seeds(tmp_path, *request), 0)[0].splitlines()
        tables.append(lines[lines.index(next(x for x in lines if "test accuracy" in x)) :])
    assert tables[0] == tables[1]
    accuracies = [result(tmp_path / f"smoke-seed-{k}")["test"]["accuracy"] for k in range(3)]
    assert [float(line.split()[1]) for line in tables[0][1:4]] == [
        round(100 * accuracy, 2) for accuracy in accuracies
    ]
    assert float(tables[0][4].split()[1]) == round(100 * sum(accuracies) / 3, 3)
    assert "smoke-seed-2" in (tmp_path / "smoke.html").read_text()
    named = [str(path) for path in tmp_path.glob("smoke-seed-*")]
    succeeded(forked("lenet_dist.report", *named, f"--out={tmp_path / 'x.html'}"))
    assert "optimizer.lr: " in end(seeds(tmp_path, *request, "optimizer.lr=0.1"), 2)[1]


def test_a_program_trains_in_place_of_lenet_dist_in_runs_of_its_own_name(tmp_path: Path) -> None:
    program = ("--program", "docs/your_own.py")
    end(seeds(tmp_path, "configs/smoke.yaml", "1", *program, steps=3), 0)
    assert result(tmp_path / "your_own-seed-0")["parameters"] != 61_706


def test_a_run_that_fails_stops_the_others_and_is_named(tmp_path: Path) -> None:
    diverging = ("optimizer.lr=1e30", "optimizer.name=sgd")
    _, errors = end(seeds(tmp_path, "configs/smoke.yaml", "2", *diverging), 1)
    assert errors.startswith("failed: smoke-seed-") and "the loss is nan" in errors


def test_a_wrong_request_starts_no_run(tmp_path: Path) -> None:
    for arguments, named in (
        (("configs/smoke.yaml", "0"), "N=0"),
        (("configs/smoke.yaml", "2", "train.epoch=3"), "train.epoch"),
        (("nowhere.yaml", "2"), "nowhere.yaml"),
        (("configs/smoke.yaml", "2", "--at-once", "0"), "--at-once 0"),
        (("configs/smoke.yaml", "2", "seed=3"), "seed=3"),
        (("configs/smoke.yaml", "2", "train.shards=3"), "train.shards = 3"),
        (("configs/smoke.yaml", "2", "--program", "nowhere.py"), "--program nowhere.py"),
    ):
        _, errors = end(seeds(tmp_path, *arguments), 2)
        assert errors.startswith("error: ") and named in errors
    assert not list(tmp_path.iterdir())


def test_an_array_of_seeds_refuses_a_seed() -> None:
    of_array = {"SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "3"}
    done = command("bash", "slurm/seeds.sh", "seed=7", environment=of_array)
    assert refusal(done) == "error: seed=7: each run has a seed of its own\n"


def test_a_run_that_is_killed_before_it_printed_is_named(tmp_path: Path) -> None:
    program = tmp_path / "killed.py"
    program.write_text("import os\nos.kill(os.getpid(), 9)\n")
    process = seeds(tmp_path, "configs/smoke.yaml", "1", "--program", str(program))
    _, errors = end(process, 1)
    log = tmp_path / "killed.logs" / "killed-seed-0.log"
    said = f"killed by SIGKILL; it printed nothing ({log})"
    assert errors == f"failed: killed-seed-0: {said}\n"
