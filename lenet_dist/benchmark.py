"""Images a second of this job beside those of the textbook loop, on this machine, in turn.

    python -m lenet_dist.benchmark [--rounds N] [--steps N] [--data-root DIR] [--json FILE]

Both train the same model on MNIST with the same recipe, each time in a fresh process that has the
machine's default number of threads. The textbook loop is timed after a few steps to warm up; the
job from its first step on. A contender is an entry of CONTENDERS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenet_dist import exits
from lenet_dist.config import TRAINING_IMAGES, Data
from lenet_dist.data import fetch
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import failures_named

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH_SIZE = 64
"""Images in a step of every contender."""

STEPS_PER_EPOCH = TRAINING_IMAGES["mnist"] // BATCH_SIZE

JOB = "job"
"""The contender that the others are compared with."""

_CONFIG = Path(__file__).parents[1] / "configs" / "seed.yaml"
_WARM_UP_STEPS = 10

_NOT_OURS = re.compile(
    r"(ACCELERATE|SLURM|TORCHELASTIC|OMP|MKL|MASTER)_|(LOCAL_)?(RANK|WORLD_SIZE)$"
)
"""Variables that make a process one of several, or set its threads."""


@dataclass(frozen=True)
class Trial:
    """One measurement: `steps` steps on the files in `data`/MNIST/raw.

    It leaves `folder`/result.json with `samples_per_second`, `threads` and `device`.
    """

    data: Path
    steps: int
    folder: Path


def _job(trial: Trial) -> list[str]:
    """The arguments of the `python` that takes a trial of `lenet_dist.train`."""
    return [
        "-m", "lenet_dist.train", "--config", str(_CONFIG), f"train.max_steps={trial.steps}",
        f"train.epochs={trial.steps // STEPS_PER_EPOCH + 1}", f"data.root={trial.data}",
        "data.download=false", "wandb.mode=disabled", f"run.root={trial.folder.parent}",
        f"run.name={trial.folder.name}",
    ]  # fmt: skip


def _loop(name: str) -> Callable[[Trial], list[str]]:
    """The same for a loop of this file, by its name in _LOOPS."""
    return lambda trial: [
        "-m", "lenet_dist.benchmark", "--contender", name, "--data-root", str(trial.data),
        "--steps", str(trial.steps), "--folder", str(trial.folder),
    ]  # fmt: skip


def _seed_model() -> nn.Module:
    from torch import nn

    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.C1 = nn.Conv2d(in_channels=1, out_channels=6, kernel_size=5, stride=1, padding=2)
            self.R1 = nn.ReLU()
            self.S2 = nn.MaxPool2d(kernel_size=2)
            self.C3 = nn.Conv2d(6, 16, 5, 1, 0)
            self.R2 = nn.ReLU()
            self.S4 = nn.MaxPool2d(2)
            self.C5 = nn.Conv2d(16, 120, 5, 1, 0)
            self.R3 = nn.ReLU()
            self.F6 = nn.Linear(in_features=120, out_features=84)
            self.R4 = nn.ReLU()
            self.OUT = nn.Linear(84, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.S2(self.R1(self.C1(x)))
            x = self.S4(self.R2(self.C3(x)))
            x = self.R3(self.C5(x))
            x = x.view(x.size(0), -1)
            x = self.R4(self.F6(x))
            return self.OUT(x)

    return LeNet()


def _seed_loop(trial: Trial) -> dict[str, Any]:
    """The loop of the document this project grew from, to the letter: an image at a time."""
    import torch
    import torchvision
    from torch import nn
    from torch.utils.data import DataLoader

    model = _seed_model()
    train_data = torchvision.datasets.MNIST(
        root=trial.data, train=True, transform=torchvision.transforms.ToTensor(), download=False
    )
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    train_loader = DataLoader(
        train_data, batch_size=BATCH_SIZE, shuffle=True, num_workers=0, drop_last=True
    )
    torch.set_grad_enabled(True)
    model.train()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)

    def train_epoch(epoch: int, steps: int) -> None:
        running_loss = 0.0
        acc: Any = 0.0
        for step, data in enumerate(islice(train_loader, steps)):
            x, y = data
            optimizer.zero_grad()
            y_pred = model(x.to(device, torch.float))
            loss = loss_function(y_pred, y.to(device, torch.long))
            loss.backward()

            running_loss += float(loss.data.cpu())
            pred = y_pred.argmax(dim=1)
            acc += (pred.data.cpu() == y.data).sum()

            if step % 100 == 99:
                loss_avg = running_loss / (step + 1)
                acc_avg = float(acc / ((step + 1) * BATCH_SIZE))
                print(f"Epoch {epoch + 1} ,step {step + 1} | {loss_avg:.4f} |{acc_avg:.4f}")

            optimizer.step()

    train_epoch(-1, _WARM_UP_STEPS)
    began = time.perf_counter()
    for epoch, done in enumerate(range(0, trial.steps, STEPS_PER_EPOCH)):
        train_epoch(epoch, min(STEPS_PER_EPOCH, trial.steps - done))
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "samples_per_second": trial.steps * BATCH_SIZE / seconds,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


_LOOPS = {"seed_loop": _seed_loop}

CONTENDERS = {JOB: _job, **{name: _loop(name) for name in _LOOPS}}
"""By name, in the order of their turns: the arguments of the `python` that takes a trial."""


def main(arguments: list[str]) -> None:
    """Measure as asked, and print a table. In a child process: take one trial."""
    parser = exits.ArgumentParser(prog="lenet_dist.benchmark", description=__doc__)
    a_number: dict[str, Any] = {"type": _positive, "metavar": "N"}
    parser.add_argument("--rounds", default=5, help="trials of each (default 5)", **a_number)
    per_trial = f"steps of {BATCH_SIZE} images in a trial (default {STEPS_PER_EPOCH}, an epoch)"
    parser.add_argument("--steps", default=STEPS_PER_EPOCH, help=per_trial, **a_number)
    place = "folder of MNIST's files, fetched if missing (default data)"
    parser.add_argument("--data-root", default="data", metavar="DIR", help=place)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--contender", choices=_LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    request = parser.parse_args(arguments)
    if request.contender:
        trial = Trial(Path(request.data_root), request.steps, request.folder)
        measured = _LOOPS[request.contender](trial)
        (trial.folder / "result.json").write_text(json.dumps(measured))
        return
    if not _CONFIG.is_file():
        raise RequestError(f"{_CONFIG}: not found; run the benchmark in a clone of the repository")
    file: Path | None = request.json
    if file and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
        raise RequestError(f"--json {file}: can't write there")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        trials = _measure(request.rounds, request.steps, request.data_root)
    except KeyboardInterrupt:
        raise RunFailed("interrupted; what was measured is not kept") from None
    command = shlex.join(["python", "-m", "lenet_dist.benchmark", *arguments])
    report = {"command": command, "steps": request.steps, "batch_size": BATCH_SIZE}
    report |= {"rounds": request.rounds, **_summary(trials), **_machine()}
    print(_table(report))
    if file:
        with failures_named(file):
            file.write_text(json.dumps(report, indent=1) + "\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _measure(rounds: int, steps: int, data_root: str) -> dict[str, list[dict[str, Any]]]:
    """The trials of each contender, one a round."""
    trials: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as scratch:
        data = Path(scratch) / "data"
        # A child's peak memory is never told as less than that of the process that starts it: what
        # takes memory here is done in a process of its own.
        with ProcessPoolExecutor(1) as aside:
            aside.submit(_provide_files, data_root, data).result()
        for number in range(1, rounds + 1):
            for name in CONTENDERS:
                taken = _take(name, Trial(data, steps, Path(scratch) / f"{name}-{number}"))
                trials[name].append(taken)
                speed = f"{taken['samples_per_second']:,.0f} images/s"
                print(f"round {number}/{rounds}: {name} {speed}", flush=True)
    return trials


def _provide_files(data_root: str, folder: Path) -> None:
    """Write MNIST's files, verified, where torchvision and the job both look for them."""
    data = Data(name="mnist", root=data_root)
    fetch.ensure(data)
    raw = folder / "MNIST" / "raw"
    with failures_named(raw):
        raw.mkdir(parents=True)
        for name in fetch.SHA256["mnist"]:
            (raw / name).write_bytes(fetch.read(data, name))


def _take(name: str, trial: Trial) -> dict[str, Any]:
    """Take one trial: its result.json, with `peak_mib` and `command`. Raises RunFailed."""
    trial.folder.mkdir()
    arguments = CONTENDERS[name](trial)
    command = [sys.executable, *arguments]
    environment = {key: text for key, text in os.environ.items() if not _NOT_OURS.match(key)}
    output = trial.folder.with_suffix(".log")
    with open(output, "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
        raise RunFailed(f"{name} ended with exit code {process.returncode}:\n{end}")
    result = json.loads((trial.folder / "result.json").read_text())
    return {**result, "peak_mib": usage.ru_maxrss / 1024, "command": _as_typed(arguments, trial)}


def _as_typed(arguments: list[str], trial: Trial) -> str:
    """The command as one would type it, without this machine's folders."""
    command = shlex.join(["python", *arguments])
    return command.replace(f"{_CONFIG.parents[1]}/", "").replace(str(trial.folder.parent), "FOLDER")


def _summary(trials: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    contenders, ratios = {}, {}
    for name, taken in trials.items():
        contenders[name] = {
            "images_per_second": _spread([trial["samples_per_second"] for trial in taken]),
            "peak_mib": _spread([trial["peak_mib"] for trial in taken]),
            **{key: taken[-1][key] for key in ("threads", "device", "command")},
        }
        job, other = (contenders[n]["images_per_second"] for n in (JOB, name))
        by_round = [a / b for a, b in zip(job["rounds"], other["rounds"], strict=True)]
        extremes = {"min": min(by_round), "max": max(by_round), "rounds": by_round}
        ratios[name] = {"of_medians": job["median"] / other["median"], **extremes}
    del ratios[JOB]
    return {"contenders": contenders, "ratios": ratios}


def _spread(values: list[float]) -> dict[str, Any]:
    median = statistics.median(values)
    return {"median": median, "min": min(values), "max": max(values), "rounds": values}


def _machine() -> dict[str, Any]:
    from lenet_dist.runtime.hardware import cores, cpu_name
    from lenet_dist.runtime.versions import git_commit, versions

    hardware = {"cpu": cpu_name(), "cores": cores()}
    software = {**versions(), "torchvision": version("torchvision")}
    return {"hardware": hardware, "versions": software, "git_commit": git_commit()}


def _table(report: dict[str, Any]) -> str:
    """For the terminal: a row a contender, a line a ratio, and what it was measured on."""
    heads = ("median", "min", "max", "peak MiB", "threads")
    rows = [f"{'images/s of':>12}" + "".join(f"{head:>10}" for head in heads)]
    for name, figures in report["contenders"].items():
        speed, peak = figures["images_per_second"], figures["peak_mib"]["median"]
        speeds = "".join(f"{speed[key]:>10,.0f}" for key in ("median", "min", "max"))
        rows.append(f"{name:>12}{speeds}{peak:>10,.0f}{figures['threads']:>10}")
    for name, ratio in report["ratios"].items():
        spread = f"{ratio['min']:.2f} to {ratio['max']:.2f} over n = {report['rounds']} rounds"
        rows.append(f"{JOB} / {name}: {ratio['of_medians']:.2f} times the images/s ({spread})")
    hardware, software = report["hardware"], report["versions"]
    on = f"{hardware['cpu']}, {hardware['cores']} cores, on {report['contenders'][JOB]['device']}"
    rows.append(f"{report['steps']} steps of {report['batch_size']} images; {on}")
    packages = ("torch", "torchvision", "accelerate", "python")
    rows.append(", ".join(f"{package} {software[package]}" for package in packages))
    return "\n".join(rows)


if __name__ == "__main__":
    exits.run(main)
