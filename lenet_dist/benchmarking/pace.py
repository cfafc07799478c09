"""How long a contender's loop goes on, and what is measured; the loop only asks for batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Assignment:
    """What a contender is to do: `steps` steps, after `warm_up` others that are not timed.

    MNIST's files are in `data`/MNIST/raw; whatever the contender writes belongs in `folder`.
    """

    data: Path
    folder: Path
    batch_size: int
    steps: int
    warm_up: int


class Steps:
    """A number of steps, timed from the end of the warm-up to the end of the last step."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.last_step = assignment.warm_up + assignment.steps
        self.step = 0
        self.first_step_at = 0.0
        """When the first step was done, on time.monotonic()."""
        self._began = self._ended = 0.0

    def epochs(self, loader: Iterable[T]) -> Iterator[Iterator[T]]:
        """The loader's batches, epoch by epoch, up to the last step."""
        self.begin()
        while self.step < self.last_step:
            yield self._batches(loader)

    def _batches(self, loader: Iterable[T]) -> Iterator[T]:
        for batch in loader:
            yield batch
            self.advance()
            if self.step == self.last_step:
                return

    def begin(self) -> None:
        """Say that the first step begins now."""
        self._began = time.perf_counter()

    def advance(self) -> None:
        """Say that a step is done."""
        self.step += 1
        if self.step in (1, self.assignment.warm_up, self.last_step):
            wait_for_gpu()
        if self.step == 1:
            self.first_step_at = time.monotonic()
        if self.step == self.assignment.warm_up:
            self._began = time.perf_counter()
        if self.step == self.last_step:
            self._ended = time.perf_counter()

    def result(self) -> dict[str, Any]:
        """What was measured, by the names that result.json has for it."""
        seconds = self._ended - self._began
        images = self.assignment.steps * self.assignment.batch_size
        return {
            "samples_per_second": images / seconds,
            "seconds": {"train": seconds},
            "first_step_at": self.first_step_at,
            **conditions(),
        }


class UntilAccurate:
    """Epoch after epoch until a test accuracy is reached; testing is timed separately."""

    def __init__(
        self, accuracy: float, assignment: Assignment, evaluate: Callable[[], float]
    ) -> None:
        self.accuracy = accuracy
        self.assignment = assignment
        self.evaluate = evaluate
        self.steps = 0
        self.accuracies: list[float] = []
        self._seconds = {"train": 0.0, "test": 0.0}

    def epochs(self, loader: Iterable[T]) -> Iterator[Iterator[T]]:
        """The loader's batches, epoch by epoch, and at most `assignment.steps` of them."""
        while not self._is_over():
            began = time.perf_counter()
            yield self._batches(loader)
            wait_for_gpu()
            trained = time.perf_counter()
            self.accuracies.append(self.evaluate())
            self._seconds["train"] += trained - began
            self._seconds["test"] += time.perf_counter() - trained

    def _is_over(self) -> bool:
        is_accurate = bool(self.accuracies) and self.accuracies[-1] >= self.accuracy
        return is_accurate or self.steps >= self.assignment.steps

    def _batches(self, loader: Iterable[T]) -> Iterator[T]:
        for batch in loader:
            if self.steps == self.assignment.steps:
                return
            yield batch
            self.steps += 1

    def result(self) -> dict[str, Any]:
        """What was measured, by the names that result.json has for it."""
        return {
            "samples_per_second": self.steps * self.assignment.batch_size / self._seconds["train"],
            "seconds": self._seconds,
            "test": {"accuracy": self.accuracies[-1]},
            **conditions(),
        }


def conditions() -> dict[str, Any]:
    """What this process computes on: its threads, and `cpu` or the GPU's model."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"threads": torch.get_num_threads(), "device": device}


def wait_for_gpu() -> None:
    """Wait until a GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
