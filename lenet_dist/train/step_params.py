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
        self._scalars: StepParams | None = None
        if device.type != "cpu":
            magnitude, weight = torch.zeros(2, device=device)
            stream = torch.zeros((), dtype=torch.int64, device=device)
            lrs = torch.zeros(len(state.peak_lrs), device=device)
            self._scalars = StepParams(lrs, stream, magnitude, weight)

    def set(self, step: int) -> StepParams:
        """The parameters of step number `step` (from 0). On a GPU: always the same scalars, given
        new values without waiting for it."""
        params = params_of_step(self._plan, self._state, step)
        if self._scalars is None:
            return params
        for scalar, number in zip(_flat(self._scalars), _flat(params), strict=True):
            scalar.fill_(number)
        return self._scalars


def _flat(params: StepParams) -> list[Any]:
    return [*params.lrs, params.stream, params.magnitude, params.ema_weight]
