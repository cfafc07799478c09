"""How long a process computes in its steps, and how long it waits in them for the others."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from lenet_dist.distributed.shm_gather import Gather

Mark = Any
"""A moment on the device's clock: a float on a CPU, an event on a GPU."""


class Seconds(NamedTuple):
    """Seconds that a process spent in steps: on its own work, and waiting for the others."""

    computed: float
    waited: float


class Stopwatch:
    """Counts a process's seconds by its device's clock; only `read` waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._steps: list[tuple[Mark, Mark]] = []
        self._waits: list[tuple[Mark, Mark]] = []
        self._waits_of_graph: list[tuple[Mark, Mark]] = []
        self._replays = 0

    @property
    def steps(self) -> int:
        """Steps since the last reading."""
        return len(self._steps)

    def wait_for_device(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Mark:
        """The present moment on the device's clock."""
        if self.device.type == "cpu":
            return time.perf_counter()
        # In a graph, only an external event is recorded anew by each replay.
        is_captured = torch.cuda.is_current_stream_capturing()
        event = torch.cuda.Event(enable_timing=True, external=is_captured)
        event.record()
        return event

    def add_step(self, began: Mark) -> None:
        """Count the time from `began` to now as a step."""
        self._steps.append((began, self.mark()))

    def add_replay(self) -> None:
        """Count a replay of the captured graph. Call it within a step."""
        self._replays += 1

    def add_wait(self, began: Mark) -> None:
        """Count the time from `began` to now as waiting. Call it within a step."""
        is_captured = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        (self._waits_of_graph if is_captured else self._waits).append((began, self.mark()))

    def read(self) -> Seconds:
        """The seconds since the last reading.

        Events in a graph keep the times of the last replay alone: they stand for all replays.
        """
        waited = _seconds(self._waits)
        if self._replays:  # Before the first one, a graph's events can't be read.
            waited += self._replays * _seconds(self._waits_of_graph)
        in_steps = _seconds(self._steps)
        self.reset()
        return Seconds(in_steps - waited, waited)

    def reset(self) -> None:
        """Begin anew, without a reading."""
        self._steps.clear()
        self._waits.clear()
        self._replays = 0

    def read_all(self, gather: Gather) -> list[Seconds]:
        """What each process reads now, by rank. A collective."""
        mine = torch.tensor([self.read()], dtype=torch.float32, device=self.device)
        return [Seconds(*(round(n, 6) for n in both)) for both in gather(mine).tolist()]


def _seconds(spans: Iterable[tuple[Mark, Mark]]) -> float:
    return sum(_between(began, ended) for began, ended in spans)


def _between(began: Mark, ended: Mark) -> float:
    if isinstance(began, float):
        return float(ended - began)
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3
