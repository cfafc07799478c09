"""One session on a GPU machine: it measures until the time is up; results are kept as they come."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking.gpu import page
from lenet_dist.benchmarking.gpu.child import Slot, call
from lenet_dist.benchmarking.gpu.programme import FULL, REHEARSAL, Measurement, Scale, programme
from lenet_dist.benchmarking.session import provide_files
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import write_atomically
from lenet_dist.reporting import speeds

_PATIENCE = 4
_LEAST_SECONDS = 60
"""A measurement may take so many times as long as expected, and at least so long."""
_FIRST_SECONDS = 120
"""The first process reads all of torch from the disk."""
_MOST_LOGGED = 20_000
"""Characters of each log that a failed measurement leaves."""


@dataclass(frozen=True)
class Asked:
    """`out`: where results are and come to; `scratch`: an empty folder for runs; `data_root`: a
    folder with MNIST's files; `until`: the end, on time.monotonic(); `rehearses`: measure little,
    as is done without a GPU anyway; `command`: as typed."""

    out: Path
    scratch: Path
    data_root: str
    until: float
    rehearses: bool
    command: str


def measure(asked: Asked) -> bool:
    """Measure what is not yet in out/results.json; gives whether everything is there.

    The file is complete after every measurement, and so is the page out/README.md. Raises
    RequestError if the results there are another machine's.
    """
    asked.out.mkdir(parents=True, exist_ok=True)
    data = asked.scratch / "data"
    provide_files(asked.data_root, data)
    slot = Slot(asked.scratch, data, 0, time.monotonic() + _FIRST_SECONDS)
    machine = call(slot, "limits", "machine")
    gpus, commit = machine["hardware"]["gpus"], machine.pop("git_commit")
    rehearses = asked.rehearses or not gpus
    report = _earlier(asked.out, {**machine, "rehearsal": rehearses}) or {
        **machine, "rehearsal": rehearses, "commands": [], "results": {},
    }  # fmt: skip
    report["commands"].append(asked.command)
    scale = REHEARSAL if rehearses else FULL
    every = list(programme(scale, gpus))
    results = report["results"]
    missing = [measurement for measurement in every if not _is_there(results, measurement)]
    missing.sort(key=lambda measurement: measurement.name in results)  # Those that failed: last.
    folders = (asked.scratch / str(number) for number in count())
    for measurement, folder in zip(missing, folders, strict=False):
        began = time.monotonic()
        left = asked.until - began
        if left < measurement.seconds:
            continue
        folder.mkdir()
        until = began + min(left, max(_LEAST_SECONDS, _PATIENCE * measurement.seconds))
        outcome = _take(measurement, Slot(folder, data, gpus, until))
        took = time.monotonic() - began
        if "failed" in outcome:
            if time.monotonic() >= asked.until:
                break  # It was cut short.
            _keep_logs(asked.out, measurement, folder)
        results[measurement.name] = {**outcome, "took_seconds": took, "git_commit": commit}
        print(f"{measurement.name}: {took:.1f} s{_failure(outcome)}", flush=True)
        _write(asked.out, report, every, scale)
    _write(asked.out, report, every, scale)
    measured = page.contenders(page.Found(report, scale))
    if measured and find_spec("matplotlib"):
        write_atomically(asked.out / "speed.svg", speeds.draw({"groups": measured}).encode())
    return all(_is_there(results, measurement) for measurement in every)


def _take(measurement: Measurement, slot: Slot) -> dict[str, Any]:
    try:
        return {"figures": measurement.take(slot)}
    except RunFailed as error:
        return {"failed": str(error)}


def _failure(outcome: dict[str, Any]) -> str:
    return f"; FAILED: {outcome['failed']}" if "failed" in outcome else ""


def _is_there(results: dict[str, Any], measurement: Measurement) -> bool:
    return "figures" in results.get(measurement.name, {})


def _earlier(out: Path, machine: dict[str, Any]) -> dict[str, Any] | None:
    """The report of earlier sessions, if there is one."""
    file = out / "results.json"
    if not file.exists():
        return None
    report: dict[str, Any] = json.loads(file.read_text())
    for key, value in machine.items():
        # Virtual machines of one kind differ a little in how much memory they tell of.
        if key != "memory_gib" and report.get(key) != value:
            raise RequestError(
                f"--out {out}: measured with {key} = {report.get(key)}; here it is {value}:"
                " name another folder"
            )
    return report


def _keep_logs(out: Path, measurement: Measurement, folder: Path) -> None:
    with open(out / "failed.log", "a") as kept:
        for log in sorted(folder.rglob("*.log")):
            text = log.read_text(errors="replace")[-_MOST_LOGGED:]
            kept.write(f"=== {measurement.name}: {log.name}\n{text}\n")


def _write(out: Path, report: dict[str, Any], every: list[Measurement], scale: Scale) -> None:
    report["not_measured"] = [m.name for m in every if m.name not in report["results"]]
    write_atomically(out / "results.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(out / "README.md", page.text(report, scale).encode())
