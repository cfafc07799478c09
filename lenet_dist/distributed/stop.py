"""A stop that is requested: one process notices it, and all agree to stop at the same step."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_dist import exits
from lenet_dist.distributed import slurm, waiting
from lenet_dist.exits import RunFailed, Stopped
from lenet_dist.launchers import MPI_RANKS
from lenet_dist.signals import Listener, heard
from lenet_dist.system import is_notebook

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lenet_dist.distributed.shm_gather import Gather

_MOST_STEPS = 8
"""Between agreements of several processes, each of which costs a collective."""

_AGREE_EVERY_SECONDS = 1.0
"""How long so many steps may have taken, lately. It leaves room for steps that become slower."""

_LOOK_EVERY_SECONDS = 0.5
"""Time between looks at the stop file: on a network file system a look is not free."""

_LAUNCHER_EXITED = "the launcher process exited"


class Action(IntEnum):
    """What the processes agree to do at a step boundary, the strongest last."""

    GO_ON = 0
    AUDIT = 1
    """Audit the next step."""
    SAVE = 2
    STOP = 3
    STOP_FOR_GOOD = 4
    """Even if the launcher would start the job again."""


class StopRequest(Listener):
    """A request to stop: a signal, the file RUN/STOP, or a launcher that exited.

    A signal ends the command at once until `training_begins`; after that, it waits for the next
    agreement. A second SIGINT always ends it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reason: str | None = None
        self._is_training = False
        self._file: Path | None = None
        self._is_by_file = False
        self._launcher = os.getppid() if _has_launcher() else None
        self._last_look = -_LOOK_EVERY_SECONDS

    def __enter__(self) -> StopRequest:
        self.listen(*heard())
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def training_begins(self) -> None:
        """From now on there is something to save before a stop."""
        self._is_training = True

    def hear(self, number: int) -> None:
        """Keep the first signal as the reason. Raises Stopped if there is nothing to save yet, and
        KeyboardInterrupt for a notebook's second SIGINT."""
        if self.reason == "SIGINT" and number == signal.SIGINT and is_notebook():
            raise KeyboardInterrupt
        self.reason = self.reason or signal.Signals(number).name
        if not self._is_training:
            raise self._stopped_early()

    def remind(self, number: int) -> None:
        """End the process where nothing is to be saved and the main thread did not end it."""
        self.reason = self.reason or signal.Signals(number).name
        if not self._is_training:
            exits.leave(self._stopped_early())

    def insist(self) -> None:
        """End the process without a checkpoint."""
        exits.leave(
            RunFailed(
                "interrupted twice: ended without a checkpoint; run the same command again to"
                " continue from the last one"
            )
        )

    def _stopped_early(self) -> Stopped | RunFailed:
        text = f"stopped by {self.reason} before training began; run the same command again"
        # srun sends SIGTERM to the other tasks when one has failed, and gives the batch script the
        # highest code: 75 would hide the failure and have the job requeued.
        is_by_srun = self.reason == "SIGTERM" and slurm.in_step()
        return RunFailed(text) if is_by_srun else Stopped(text)

    def stopped(self, action: Action, where: str, saved_in: Path) -> Stopped:
        """What to raise after a stop that the processes have agreed on, `where` in training."""
        self.is_made()  # Another process may have seen it first: a launcher that is gone, say.
        cause = f"stopped by {self.reason or 'a request to another process'} after {where}"
        if self.reason == _LAUNCHER_EXITED:
            cause = f"stopped after {where}: {self.reason}"
        return Stopped(
            f"{cause}; saved in {saved_in}; run the same command again to continue",
            for_good=action is Action.STOP_FOR_GOOD,
        )

    def watch(self, file: Path) -> None:
        """Also take a file of this name as a request; call it in one process of the job only."""
        self._file = file

    def is_made(self) -> bool:
        """Whether this process was asked to stop."""
        if self.reason is None and self._launcher not in (None, os.getppid()):
            # accelerate launch forwards no signals, and some kill torchrun: better to stop with
            # everything saved than to run on unseen.
            self.reason = _LAUNCHER_EXITED
        if self.reason is None and self._file is not None:
            now = time.monotonic()
            if now - self._last_look >= _LOOK_EVERY_SECONDS:
                self._last_look = now
                if self._file.exists():
                    self.reason = f"the file {self._file}"
                    self._is_by_file = True
        return self.reason is not None

    def action(self) -> Action:
        """The action that the request asks of all processes."""
        if not self.is_made():
            return Action.GO_ON
        return Action.STOP_FOR_GOOD if self._is_by_file else Action.STOP


class StopConsensus:
    """The processes' agreement on an action at a step boundary: the strongest that one asks for."""

    def __init__(self, request: StopRequest, accelerator: Accelerator, gather: Gather) -> None:
        self.request = request
        import torch

        self._world_size = accelerator.num_processes
        self._row = torch.zeros(1, 2, device=accelerator.device)
        self._gather = gather
        self._next_step = 0
        self._last: tuple[int, float] | None = None
        """Step and time.monotonic() of the last agreement."""

    def is_due(self, step: int) -> bool:
        """Whether the processes agree after step number `step`; the same on all of them."""
        return self._world_size == 1 or step >= self._next_step

    def reach(self, step: int, proposal: Action = Action.GO_ON) -> Action:
        """Agree on the strongest action: this process proposes `proposal`, or a requested stop.

        A collective: every process must call it. `step`: how many steps are done.
        """
        proposal = max(proposal, self.request.action())
        if self._world_size == 1:
            return proposal
        step_seconds = 0.0
        if self._last is not None and self._last[0] < step:
            step_seconds = (time.monotonic() - self._last[1]) / (step - self._last[0])
        # Filled, because a tensor made of numbers would wait for the GPU: with a process lost, this
        # one would not even ask.
        for place, number in zip(self._row[0], (proposal, step_seconds), strict=True):
            place.fill_(number)
        strongest, slowest = self._gather(self._row).amax(0).tolist()
        waiting.agreed()
        if slowest:
            # Of what all have gathered, so that they agree at the same steps.
            steps = int(_AGREE_EVERY_SECONDS / slowest)
            self._next_step = step + max(1, min(_MOST_STEPS, steps))
        self._last = step, time.monotonic()
        return Action(int(strongest))


def _has_launcher() -> bool:
    """Whether torchrun, accelerate launch or mpirun started this process, by their variables."""
    mpi_variables = (names[0] for names in MPI_RANKS)
    return any(
        name in os.environ
        for name in ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", *mpi_variables)
    )
