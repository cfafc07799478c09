"""A stop that is requested: one process notices it, and all agree to stop at the same step."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lenet_dist.processes.exchange import Gather

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

_AGREE_EVERY = 8
"""Steps between agreements of several processes; each costs a collective."""

_LOOK_EVERY_SECONDS = 0.5
"""Time between looks at the stop file: on a network file system a look is not free."""


class Action(IntEnum):
    """What the processes agree to do at a step boundary: the highest of their wishes."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    STOP_FOR_GOOD = 3
    """Even if the launcher would start the job again."""


class StopRequest:
    """Whether someone wants this process to stop: a signal, the file RUN/STOP, a dead launcher."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._file: Path | None = None
        self._is_by_file = False
        self._launcher = os.getppid() if _has_launcher() else None
        self._last_look = -_LOOK_EVERY_SECONDS

    def install(self) -> None:
        """Catch the signals. The handler only sets a flag; a second signal changes nothing."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def watch(self, file: Path) -> None:
        """Also take a file of this name as a request; call it in one process of the job only."""
        self._file = file

    def is_made(self) -> bool:
        """Whether a stop has been asked of this process."""
        if self.reason is None and self._launcher not in (None, os.getppid()):
            # accelerate launch forwards no signals, and some kill torchrun: better to stop with
            # everything saved than to run on unseen.
            self.reason = "the death of its launcher"
        if self.reason is None and self._file is not None:
            now = time.monotonic()
            if now - self._last_look >= _LOOK_EVERY_SECONDS:
                self._last_look = now
                if self._file.exists():
                    self.reason = f"the file {self._file}"
                    self._is_by_file = True
        return self.reason is not None

    def wish(self) -> Action:
        """What this process wants all processes to do."""
        if not self.is_made():
            return Action.GO_ON
        return Action.STOP_FOR_GOOD if self._is_by_file else Action.STOP

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name


class Agreement:
    """What all processes do at a step boundary: the strongest of their wishes."""

    def __init__(self, request: StopRequest, accelerator: Accelerator, gather: Gather) -> None:
        self.request = request
        self._world_size = accelerator.num_processes
        self._device = accelerator.device
        self._gather = gather

    def is_due(self, step: int) -> bool:
        """Whether the processes agree after step number `step`: a function of the step alone."""
        return self._world_size == 1 or step % _AGREE_EVERY == 0

    def reach(self, wish: Action = Action.GO_ON) -> Action:
        """Agree. This process wishes for `wish`, or for a stop if it was asked to stop.

        A collective: every process must call it.
        """
        wish = max(wish, self.request.wish())
        if self._world_size == 1:
            return wish
        import torch

        wishes = self._gather(torch.tensor([[wish]], dtype=torch.float32, device=self._device))
        return Action(int(wishes.max()))


def _has_launcher() -> bool:
    """Whether torchrun or accelerate launch started this process: they set these variables."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
