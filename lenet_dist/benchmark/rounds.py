"""One call of the benchmark: every case in turn, each trial in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lenet_dist.benchmark.cases import TRIAL, Conditions, ratios_of
from lenet_dist.config import Data
from lenet_dist.data import fetch
from lenet_dist.exits import RunFailed
from lenet_dist.files import failures_named

Report = dict[str, Any]
"""`ratios`: the title, the names of two cases, the figure's name. `figures`: those of each round,
by the case's name. `rounds`: how many there are. `hardware`, `versions`, `git_commit`."""

_NOT_OURS = re.compile(
    r"(ACCELERATE|SLURM|TORCHELASTIC|OMP|MKL|MASTER|WANDB)_|(LOCAL_)?(RANK|WORLD_SIZE)$"
)
"""Variables that make a process one of several, set its threads, or say how it is tracked."""


def measure(groups: Sequence[str], rounds: int, steps: int | None, data_root: str) -> Report:
    """Measure some groups of ratios. Raises RunFailed if a trial fails."""
    import torch

    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as folder:
        conditions = Conditions(Path(folder), steps, torch.cuda.device_count())
        ratios = ratios_of(groups, conditions)
        # A case that several ratios need is measured once a round.
        cases = list({case.name: case for r in ratios for case in (r.over, r.under)}.values())
        provide_files(data_root, conditions.data)
        for number in range(rounds):
            # Every other round goes backwards, so that a drift of the machine's favours nobody.
            for case in cases if number % 2 == 0 else reversed(cases):
                measured = take(case.arguments, case.name)
                figures[case.name].append(measured)
                shown = ", ".join(f"{n} {v:,.4g}" for n, v in measured.items())
                print(f"round {number + 1} of {rounds}: {case.name}: {shown}", flush=True)
    shown_ratios = [
        {"title": r.title, "over": r.over.name, "under": r.under.name, "figure": r.figure}
        for r in ratios
    ]
    return {"rounds": rounds, "ratios": shown_ratios, "figures": figures, **_machine()}


def take(arguments: list[str], name: str) -> dict[str, float]:
    """The figures of a case: `python ARGUMENTS`, in a folder of its own, leaves TRIAL/result.json.

    `seconds`: from start to exit, without tests between epochs, which only a baseline has.
    `images_per_second`: of training. `accuracy`: on the test set. Raises RunFailed, with the end of
    what it printed, if its exit code is not 0.
    """
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as folder:
        trial = Path(folder, TRIAL)
        trial.mkdir()
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=clean_environment(), text=True,
            errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        if done.returncode:
            end = "\n".join(done.stdout.splitlines()[-20:])
            raise RunFailed(f"{name} ended with exit code {done.returncode}:\n{end}")
        return _figures(trial, seconds)


def _figures(trial: Path, seconds: float) -> dict[str, float]:
    result: dict[str, Any] = json.loads((trial / "result.json").read_text())
    metrics = trial / "metrics.jsonl"
    if not metrics.exists():  # A baseline's result has its figures by their names.
        return {"seconds": seconds - result.pop("tested_seconds", 0.0), **result}
    evaluated = sum(line.get("count", 0) for line in map(json.loads, metrics.open()))
    return {
        "seconds": seconds,
        "images_per_second": result["samples_per_second"],
        "evaluated_per_second": evaluated / result["seconds"]["evaluate"],
        "accuracy": result["test"]["accuracy"],
    }


def clean_environment() -> dict[str, str]:
    """This process's environment, without what launchers and trackers around it have set."""
    return {key: text for key, text in os.environ.items() if not _NOT_OURS.match(key)}


def provide_files(data_root: str, folder: Path) -> None:
    """Write MNIST's files, verified, where torchvision and the job both look for them."""
    data = Data(name="mnist", root=data_root)
    fetch.ensure(data)
    raw = folder / "MNIST" / "raw"
    with failures_named(raw):
        raw.mkdir(parents=True)
        for name in fetch.SHA256["mnist"]:
            (raw / name).write_bytes(fetch.read(data, name))


def _machine() -> dict[str, Any]:
    import torch

    from lenet_dist.system import git_commit, processor, versions

    gpus = torch.cuda.device_count()
    hardware = processor() + (f", {gpus} x {torch.cuda.get_device_name()}" if gpus else "")
    software = {**versions(), "torchvision": version("torchvision")}
    return {"hardware": hardware, "versions": software, "git_commit": git_commit()}
