"""One call of the benchmark: what it was asked for, measured and written."""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking import measurements, table
from lenet_dist.benchmarking.measurements import CONFIGS, Request
from lenet_dist.benchmarking.page import between
from lenet_dist.benchmarking.targets import TARGETS, judge
from lenet_dist.config import Data
from lenet_dist.data import fetch
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import check_file_can_be_written, failures_named, write_atomically
from lenet_dist.reporting import speeds
from lenet_dist.request import load

_FIGURES = between("figures")


def check(request: argparse.Namespace) -> None:
    """Refuse, before measuring, what would fail afterwards."""
    for name in ("seed.yaml", "fast.yaml"):
        if not (CONFIGS / name).is_file():
            raise RequestError(
                f"{CONFIGS / name}: not found; run the benchmark in a clone of the repository"
            )
        load(CONFIGS / name)
    for option in ("json", "plot", "page"):
        check_file_can_be_written(f"--{option}", getattr(request, option))
    if request.page and not (request.page.exists() and _FIGURES.search(request.page.read_text())):
        raise RequestError(f"--page {request.page}: has no <!-- figures --> and <!-- /figures -->")
    if request.plot and "speed" not in request.only:
        raise RequestError("--plot needs the group speed in --only")


def measure(request: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """What was measured, and the reason if that is not everything."""
    groups: dict[str, Any] = {}
    failure = None
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as folder:
        scratch = Path(folder)
        # The system never reports a child's peak memory as less than its parent's, so whatever
        # takes memory here runs in a process of its own.
        with ProcessPoolExecutor(1) as aside:
            aside.submit(provide_files, request.data_root, scratch / "data").result()
            machine = aside.submit(measurements.machine).result()
        asked = Request(
            rounds=request.rounds, steps=request.steps, data=scratch / "data",
            gpus=machine["hardware"]["gpus"],
        )  # fmt: skip
        try:
            for group in request.only:
                groups[group] = measurements.measure(group, asked, scratch, _say)
        except KeyboardInterrupt:
            failure = "interrupted"
        except RunFailed as error:
            failure = str(error)
    if failure and groups:
        failure += f"\n{', '.join(groups)}: measured before that, and kept"
    outcomes = [judge(groups, target) for target in TARGETS]
    targets = [{**outcome.as_json(), "verdict": outcome.verdict} for outcome in outcomes]
    report = {"rounds": request.rounds, "groups": groups, "targets": targets, **machine}
    return report, failure


def write(request: argparse.Namespace, report: dict[str, Any]) -> None:
    """Put the report where --json, --plot and --page say. Raises RunFailed naming the file."""
    texts = {
        "json": lambda: json.dumps(report, indent=1) + "\n",
        "plot": lambda: speeds.draw(report),
        "page": lambda: _FIGURES.sub(lambda _: table.for_page(report), request.page.read_text()),
    }
    for option, text in texts.items():
        file: Path | None = getattr(request, option)
        if file and not (option == "plot" and "speed" not in report["groups"]):
            write_atomically(file, text().encode())


def take_one_trial(request: argparse.Namespace) -> None:
    """Measure one contender once, as the child process."""
    from lenet_dist.benchmarking.contenders import LOOPS
    from lenet_dist.benchmarking.pace import Assignment

    numbers = (int(n) for n in (request.batch_size, request.steps, request.warm_up))
    assignment = Assignment(Path(request.data_root), Path(request.folder), *numbers)
    measured = LOOPS[request.contender](assignment)
    (assignment.folder / "result.json").write_text(json.dumps(measured))


def _say(text: str) -> None:
    print(text, flush=True)


def provide_files(data_root: str, folder: Path) -> None:
    """Write MNIST's files, verified, where torchvision and the job both look for them."""
    data = Data(name="mnist", root=data_root)
    fetch.ensure(data)
    raw = folder / "MNIST" / "raw"
    with failures_named(raw):
        raw.mkdir(parents=True)
        for name in fetch.SHA256["mnist"]:
            (raw / name).write_bytes(fetch.read(data, name))
