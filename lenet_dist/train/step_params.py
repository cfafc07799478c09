"""What depends on a step's number alone: learning rates, augmentation, the EMA's weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenet_dist.data import augment
from lenet_dist.data.augment import Augmentation
from lenet_dist.plan import Plan
from lenet_dist.train.schedule import learning_rate
from lenet_dist.train.state import TrainState

_AHEAD = 1024
"""Steps whose parameters go to a GPU at once."""


@dataclass
class StepParams:
    """A step's parameters: numbers on a CPU; on a GPU scalars in its memory, so that a captured
    step reads each step's values."""

    lrs: Any
    """The learning rate of each parameter group."""
    stream: int | Tensor
    """The seed of the augmentation's random numbers in this epoch, 64 bits as int64."""
    magnitude: float | Tensor
    """The augmentation's magnitude; 1 is full."""
    ema_weight: float | Tensor
    """The weight of the new parameters in the moving average."""


def params_of_step(plan: Plan, state: TrainState, step: int) -> StepParams:
    """The parameters of step number `step` (from 0), as plain numbers."""
    config = plan.config
    epoch, epochs = step // plan.steps_per_epoch, plan.epoch_of(plan.total_steps)
    return StepParams(
        lrs=[
            learning_rate(config.schedule, peak, step, plan.total_steps) for peak in state.peak_lrs
        ],
        stream=Augmentation(config.augment, config.seed).stream(epoch),
        magnitude=augment.magnitude(config.augment, epoch, epochs),
        ema_weight=state.ema.weight(step + 1) if state.ema else 0.0,
    )


class StepParamsOnDevice:
    """The parameters of the step that was set last, where the device reads them."""

    def __init__(self, plan: Plan, state: TrainState) -> None:
        self._plan = plan
        self._state = state
        device = state.flat.device
        self._is_on_cpu = device.type == "cpu"
        self._numbers = torch.zeros(len(state.peak_lrs) + 2, device=device)
        self._stream = torch.zeros((), dtype=torch.int64, device=device)
        self._known = range(0)
        """Steps whose numbers [steps, lrs + 2] are on the device already."""
        self._rows: Tensor
        self._streams: list[int]
        self._filled: int | None = None

    def set(self, step: int) -> StepParams:
        """The parameters of step number `step` (from 0). On a GPU: always the same scalars, given
        new values by one kernel, without waiting for it but every `_AHEAD` steps."""
        if self._is_on_cpu:
            return params_of_step(self._plan, self._state, step)
        if step not in self._known:
            self._look_ahead(step)
        place = step - self._known.start
        self._numbers.copy_(self._rows[place])
        if self._streams[place] != self._filled:  # A new epoch.
            self._filled = self._streams[place]
            self._stream.fill_(self._filled)
        return StepParams(self._numbers[:-2], self._stream, self._numbers[-2], self._numbers[-1])

    def _look_ahead(self, step: int) -> None:
        self._known = range(step, step + _AHEAD)
        ahead = [params_of_step(self._plan, self._state, number) for number in self._known]
        rows = [[*params.lrs, params.magnitude, params.ema_weight] for params in ahead]
        self._rows = torch.tensor(rows, dtype=torch.float32).to(self._numbers.device)
        self._streams = [int(params.stream) for params in ahead]
