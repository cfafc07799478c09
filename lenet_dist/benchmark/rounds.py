"""One call of the benchmark: every case in turn, each trial in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lenet_dist.benchmark.cases import Conditions, ratios_of
from lenet_dist.config import Data
from lenet_dist.data import fetch
from lenet_dist.exits import RunFailed
from lenet_dist.files import failures_named

Report = dict[str, Any]
"""`ratios`: the title, the names of two cases, the figure's name. `figures`: those of each round,
by the case's name. `rounds`: how many are complete. `hardware`, `versions`, `git_commit`."""

_NOT_OURS = re.compile(
    r"(ACCELERATE|SLURM|TORCHELASTIC|OMP|MKL|MASTER|WANDB)_|(LOCAL_)?(RANK|WORLD_SIZE)$"
)
"""Variables that make a process one of several, set its threads, or say how it is tracked."""


def measure(
    groups: Sequence[str], rounds: int, steps: int | None, data_root: str
) -> tuple[Report, str | None]:
    """Measure some groups of ratios. Gives the report, and the reason if a round is missing."""
    machine = _machine()
    figures: dict[str, list[dict[str, float]]] = {}
    complete, failure = 0, None
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as folder:
        scratch = Path(folder)
        conditions = Conditions(scratch / "data", steps, machine["hardware"]["gpus"])
        ratios = ratios_of(groups, conditions)
        # A case that several ratios need is measured once a round.
        cases = list({case.name: case for r in ratios for case in (r.over, r.under)}.values())
        provide_files(data_root, conditions.data)
        try:
            for number in range(rounds):
                # Every other round goes backwards, so that a drift of the machine's favours nobody.
                measured = {}
                for case in cases if number % 2 == 0 else reversed(cases):
                    place = scratch / f"{number}-{cases.index(case)}"
                    measured[case.name] = take(case.arguments(place), place, case.name)
                    shown = ", ".join(f"{n} {v:,.4g}" for n, v in measured[case.name].items())
                    print(f"round {number + 1} of {rounds}: {case.name}: {shown}", flush=True)
                for name, values in measured.items():
                    figures.setdefault(name, []).append(values)
                complete += 1
        except KeyboardInterrupt:
            failure = "interrupted"
        except RunFailed as error:
            failure = str(error)
    if failure and complete:
        failure += f"\nkept: {complete} of {rounds} rounds"
    shown_ratios = [
        {"title": r.title, "over": r.over.name, "under": r.under.name, "figure": r.figure}
        for r in ratios
    ]
    return {"rounds": complete, "ratios": shown_ratios, "figures": figures, **machine}, failure


def take(arguments: list[str], folder: Path, name: str) -> dict[str, float]:
    """The figures of `python ARGUMENTS`, which leaves a result.json in `folder`.

    `seconds`: from start to exit, without tests between epochs, which only a baseline has.
    `images_per_second`: of training, or of evaluation. `accuracy`: on the test set. Raises
    RunFailed, with the end of what it printed, if its exit code is not 0.
    """
    folder.mkdir()
    output = folder.with_suffix(".log")
    with open(output, "wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *arguments], env=clean_environment(), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    seconds = time.monotonic() - began
    if process.returncode:
        end = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
        raise RunFailed(f"{name} ended with exit code {process.returncode}:\n{end}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    figures = {
        "seconds": seconds - result.get("tested_seconds", 0.0),
        "images_per_second": result.get("samples_per_second", 0.0),
    }
    if "evaluated_per_second" in result:
        figures["evaluated_per_second"] = result["evaluated_per_second"]
    if "test" in result:
        figures["accuracy"] = result["test"]["accuracy"]
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        evaluated = sum(line.get("count", 0) for line in map(json.loads, metrics.open()))
        figures["evaluated_per_second"] = evaluated / result["seconds"]["evaluate"]
    return figures


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

    from lenet_dist.system import cores, cpu_name, git_commit, versions

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    hardware = {
        "cpu": cpu_name(), "cores": cores(), "gpus": gpus,
        "gpu": torch.cuda.get_device_name() if gpus else None,
    }  # fmt: skip
    software = {**versions(), "torchvision": version("torchvision")}
    return {"hardware": hardware, "versions": software, "git_commit": git_commit()}
