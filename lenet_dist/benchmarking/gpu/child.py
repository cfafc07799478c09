"""A process forked from one that has imported torch: new in all else, without an import's seconds.

On a GPU machine a run of 200 steps takes less time than the imports before it.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenet_dist.benchmarking.trial import clean_environment
from lenet_dist.exits import RunFailed

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["lenet_dist.training.start", "torch.profiler"])
_LINES = 20
"""Of what a failed process printed, the last so many are told."""


@dataclass(frozen=True)
class Slot:
    """Where and until when one measurement is taken: a folder of its own, which exists, the folder
    of MNIST's files, the number of GPUs, and a time on time.monotonic()."""

    folder: Path
    data: Path
    gpus: int
    until: float


class Child:
    """A function of a module, called in a process of its own that prints into `output`."""

    def __init__(
        self, output: Path, environment: Mapping[str, str], function: Callable[..., object],
        *arguments: object,
    ) -> None:  # fmt: skip
        self.output = output
        whole = {**clean_environment(), **environment}
        self.process = _SERVER.Process(
            target=_become, args=(str(output), whole, function, arguments)
        )
        self.process.start()

    def is_running(self) -> bool:
        return self.process.exitcode is None

    def tail(self) -> str:
        """The end of what it printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-_LINES:])


def wait(children: Sequence[Child], until: float, expected: int = 0) -> None:
    """Wait for all; none is left behind.

    Raises RunFailed, with the end of what it printed, for one that ends with another exit code than
    `expected`, or not in time.
    """
    try:
        for child in children:
            child.process.join(max(0.0, until - time.monotonic()))
            code = child.process.exitcode
            if code != expected:
                what = "took too long" if code is None else f"ended with exit code {code}"
                raise RunFailed(f"{child.output.stem} {what}:\n{child.tail()}")
    finally:
        for child in children:
            child.process.kill()
            child.process.join()


def call(slot: Slot, module: str, function: str, *arguments: object) -> dict[str, Any]:
    """The figures that a function gives when called in a child; its module is not imported here."""
    result = slot.folder / f"{function}.json"
    asked = (str(result), f"{__package__}.{module}", function, *arguments)
    wait([Child(result.with_suffix(".log"), {}, _write_result, *asked)], slot.until)
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures


def _write_result(file: str, module: str, function: str, *arguments: object) -> None:
    figures = getattr(importlib.import_module(module), function)(*arguments)
    Path(file).write_text(json.dumps(figures))


def _become(
    output: str, environment: dict[str, str], function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:  # fmt: skip
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
