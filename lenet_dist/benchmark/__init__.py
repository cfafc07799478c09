"""Measure this job beside what a user would pick instead, in turn, on this machine.

    python -m lenet_dist.benchmark [--rounds N] [--only GROUP,...] [--out FILE] [--json FILE]

It prints a table of ratios: each with its median and range over the rounds, and the medians of the
two figures it divides. Every trial is a fresh process with the machine's default number of threads.
docs/benchmarks/README.md describes the baselines.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
from pathlib import Path

from lenet_dist import exits
from lenet_dist.benchmark import rounds, table
from lenet_dist.benchmark.cases import GROUPS
from lenet_dist.files import check_file_can_be_written, write_atomically


def main(arguments: list[str]) -> None:
    """Measure as asked and print the table."""
    parser = exits.ArgumentParser(prog="lenet_dist.benchmark", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=5, metavar="N", help="(default 5)")
    groups = f"some of {', '.join(GROUPS)} (default all)"
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar="GROUP,...", help=groups)
    per_trial = "steps per trial (default: enough for seconds of training)"
    parser.add_argument("--steps", type=_positive, metavar="N", help=per_trial)
    place = "folder of MNIST's files, which are fetched if missing (default data)"
    parser.add_argument("--data-root", default="data", metavar="DIR", help=place)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table to FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    request = parser.parse_args(arguments)
    check_file_can_be_written("--out", request.out)
    check_file_can_be_written("--json", request.json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = rounds.measure(request.only, request.rounds, request.steps, request.data_root)
    report["command"] = shlex.join(["python", "-m", "lenet_dist.benchmark", *arguments])
    text = table.in_markdown(report)
    print(text)
    if request.out:
        write_atomically(request.out, f"{text}\n".encode())
    if request.json:
        write_atomically(request.json, (json.dumps(report, indent=1) + "\n").encode())


def _groups(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in names)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)
