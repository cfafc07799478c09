"""Measure this job against its alternatives, in turn, on this machine.

    python -m lenet_dist.benchmark [--rounds N] [--only GROUP,...] [--json FILE] [--plot FILE]

It prints images per second, seconds to the first step and to 99.0% test accuracy, peak memory, what
more processes gain, and each target beside its measured ratio. Each trial is a fresh process with
the machine's default number of threads. docs/benchmarks/README.md describes the contenders.
"""

from __future__ import annotations

import argparse
import shlex
import signal
from pathlib import Path
from typing import Any

from lenet_dist import exits
from lenet_dist.benchmarking import session, table
from lenet_dist.benchmarking.measurements import GROUPS
from lenet_dist.exits import RunFailed

_ROUNDS = 3


def main(arguments: list[str]) -> None:
    """Measure as asked and print the tables; in a child process, take one trial."""
    parser = exits.ArgumentParser(prog="lenet_dist.benchmark", description=__doc__)
    a_number: dict[str, Any] = {"type": _positive, "metavar": "N"}
    parser.add_argument(
        "--rounds", default=_ROUNDS, help=f"trials per contender (default {_ROUNDS})", **a_number
    )
    groups = f"some of {', '.join(GROUPS)} (default all)"
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar="GROUP,...", help=groups)
    per_trial = "steps per trial (default: set per group, for trials of seconds to a minute)"
    parser.add_argument("--steps", help=per_trial, **a_number)
    place = "folder of MNIST's files, which are fetched if missing (default data)"
    parser.add_argument("--data-root", default="data", metavar="DIR", help=place)
    for option, what in (
        ("--json", "also write every figure to FILE"),
        ("--plot", "plot images per second to FILE, as SVG"),
        ("--page", "put the tables into this Markdown file, between its markers"),
    ):
        parser.add_argument(option, type=Path, metavar="FILE", help=what)
    for option in ("--contender", "--batch-size", "--warm-up", "--folder"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    request = parser.parse_args(arguments)
    if request.contender:
        session.take_one_trial(request)
        return
    session.check(request)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report, failure = session.measure(request)
    report["command"] = shlex.join(["python", "-m", "lenet_dist.benchmark", *arguments])
    if report["groups"]:
        print(table.for_terminal(report))
        session.write(request, report)
    if failure:
        raise RunFailed(failure)


def _groups(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    if unknown := [name for name in asked if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in asked)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    exits.run(main)
