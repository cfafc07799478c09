"""This job beside what one would use instead, on this machine, in turn.

    python -m lenet_dist.benchmark [--rounds N] [--only GROUP,...] [--json FILE] [--plot FILE]

Images a second, seconds to the first step and to 99.0% test, peak memory, what more processes are
worth; every target beside its measured ratio. Each trial is a fresh process with the machine's
default number of threads. docs/benchmarks/README.md says what the contenders are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from lenet_dist import config as configuration
from lenet_dist import exits
from lenet_dist.benchmarking import measurements, table
from lenet_dist.benchmarking.measurements import CONFIGS, GROUPS, Request
from lenet_dist.benchmarking.targets import TARGETS, judge
from lenet_dist.config import Data
from lenet_dist.data import fetch
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import failures_named
from lenet_dist.reporting import speeds

_ROUNDS = 3
_MARKED = re.compile(r"(?<=<!-- figures -->\n).*(?=\n<!-- /figures -->)", re.DOTALL)


def main(arguments: list[str]) -> None:
    """Measure as asked, and print the tables. In a child process: take one trial."""
    parser = exits.ArgumentParser(prog="lenet_dist.benchmark", description=__doc__)
    a_number: dict[str, Any] = {"type": _positive, "metavar": "N"}
    parser.add_argument(
        "--rounds", default=_ROUNDS, help=f"trials of each (default {_ROUNDS})", **a_number
    )
    groups = f"some of {', '.join(GROUPS)} (default all)"
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar="GROUP,...", help=groups)
    per_trial = "steps of a trial (default: by what is measured, seconds to a minute each)"
    parser.add_argument("--steps", help=per_trial, **a_number)
    place = "folder of MNIST's files, fetched if missing (default data)"
    parser.add_argument("--data-root", default="data", metavar="DIR", help=place)
    for option, what in (
        ("--json", "write every figure there too"),
        ("--plot", "draw images a second there, as SVG"),
        ("--page", "put the tables into this Markdown file, between its marks"),
    ):
        parser.add_argument(option, type=Path, metavar="FILE", help=what)
    for option in ("--contender", "--batch-size", "--warm-up", "--folder"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    request = parser.parse_args(arguments)
    if request.contender:
        _take_one_trial(request)
        return
    _check(request)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report, failure = _measure(request)
    report["command"] = shlex.join(["python", "-m", "lenet_dist.benchmark", *arguments])
    if report["groups"]:
        print(table.for_terminal(report))
        _write(request, report)
    if failure:
        raise RunFailed(failure)


def _take_one_trial(request: argparse.Namespace) -> None:
    from lenet_dist.benchmarking.contenders import LOOPS
    from lenet_dist.benchmarking.pace import Assignment

    numbers = (int(n) for n in (request.batch_size, request.steps, request.warm_up))
    assignment = Assignment(Path(request.data_root), Path(request.folder), *numbers)
    measured = LOOPS[request.contender](assignment)
    (assignment.folder / "result.json").write_text(json.dumps(measured))


def _check(request: argparse.Namespace) -> None:
    """Refuse before measuring what would fail after it."""
    for name in ("seed.yaml", "fast.yaml"):
        if not (CONFIGS / name).is_file():
            raise RequestError(
                f"{CONFIGS / name}: not found; run the benchmark in a clone of the repository"
            )
        configuration.load(CONFIGS / name)
    for option in ("json", "plot", "page"):
        file: Path | None = getattr(request, option)
        if file is None:
            continue
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise RequestError(f"--{option} {file}: can't write there")
    if request.page and not (request.page.exists() and _MARKED.search(request.page.read_text())):
        raise RequestError(f"--page {request.page}: has no <!-- figures --> and <!-- /figures -->")
    if request.plot and "speed" not in request.only:
        raise RequestError("--plot needs the group speed in --only")


def _measure(request: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """What was measured, and why that is not all, if it is not."""
    groups: dict[str, Any] = {}
    failure = None
    with tempfile.TemporaryDirectory(prefix="lenet_dist.benchmark.") as folder:
        scratch = Path(folder)
        # A child's peak memory is never told as less than that of the process that starts it: what
        # takes memory here is done in a process of its own.
        with ProcessPoolExecutor(1) as aside:
            aside.submit(_provide_files, request.data_root, scratch / "data").result()
            machine = aside.submit(measurements.machine).result()
        asked = Request(
            groups=request.only, rounds=request.rounds, steps=request.steps,
            data=scratch / "data", gpus=machine["hardware"]["gpus"],
        )  # fmt: skip
        try:
            for group, entries in measurements.measure(asked, scratch, _say):
                groups[group] = entries
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


def _say(text: str) -> None:
    print(text, flush=True)


def _provide_files(data_root: str, folder: Path) -> None:
    """Write MNIST's files, verified, where torchvision and the job both look for them."""
    data = Data(name="mnist", root=data_root)
    fetch.ensure(data)
    raw = folder / "MNIST" / "raw"
    with failures_named(raw):
        raw.mkdir(parents=True)
        for name in fetch.SHA256["mnist"]:
            (raw / name).write_bytes(fetch.read(data, name))


def _write(request: argparse.Namespace, report: dict[str, Any]) -> None:
    texts = {
        "json": lambda: json.dumps(report, indent=1) + "\n",
        "plot": lambda: speeds.draw(report),
        "page": lambda: _MARKED.sub(lambda _: table.for_page(report), request.page.read_text()),
    }
    for option, text in texts.items():
        file: Path | None = getattr(request, option)
        if file and not (option == "plot" and "speed" not in report["groups"]):
            with failures_named(file):
                file.write_text(text())


def _groups(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in asked)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


if __name__ == "__main__":
    exits.run(main)
