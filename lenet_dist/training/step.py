"""One optimizer step on a process's share of a global batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lenet_dist.data import augment
from lenet_dist.data.augment import Distortion
from lenet_dist.data.dataset import Batch, pixels
from lenet_dist.plan import Plan
from lenet_dist.training.gradient import Gradient
from lenet_dist.training.optimizer import weights_of
from lenet_dist.training.schedule import learning_rate
from lenet_dist.training.state import TrainState
from lenet_dist.training.window import StepStats


class StepNumbers(NamedTuple):
    """What depends on a step's number alone."""

    lr: float | Tensor
    stream: int | Tensor
    """The distortion's random numbers, 64 bits as int64."""
    strength: float | Tensor
    """The distortion's strength; 1 is full."""
    average_share: float | Tensor
    """The share of the new weights in the running mean."""


class TrainStep:
    """The gradient, clipping, the update, the moving average."""

    def __init__(self, plan: Plan, gradient: Gradient, state: TrainState) -> None:
        config = plan.config
        self.config = config
        self.plan = plan
        self.gradient = gradient
        self.optimizer = state.optimizer
        self.weights = weights_of(state.optimizer)
        self.scaler = state.scaler
        self.average = state.average
        self.distortion = Distortion(config.augment, config.seed)
        device = self.weights.device
        # On a GPU they are scalars in its memory, so that a captured step sees each step's values.
        self.scalars = _scalars(device) if device.type == "cuda" else None
        self.numbers = StepNumbers(*(self.scalars or (0.0, 0, 0.0, 0.0)))

    def __call__(self, batch: Batch, step: int) -> StepStats:
        """Take step number `step` (from 0) on this process's share of its global batch."""
        self.set_numbers(step)
        return self.take(batch)

    def set_numbers(self, step: int) -> None:
        """Make ready for step number `step` (from 0), without waiting for the device."""
        epoch = step // self.plan.steps_per_epoch
        epochs = self.plan.epoch_of(self.plan.total_steps)
        numbers = StepNumbers(
            lr=learning_rate(
                self.config.schedule, self.config.optimizer.lr, step, self.plan.total_steps
            ),
            stream=self.distortion.stream(epoch),
            strength=augment.strength(self.config.augment, epoch, epochs),
            average_share=self.average.share(step + 1) if self.average else 0.0,
        )
        if self.scalars is None:
            self.numbers = numbers
        else:
            for scalar, number in zip(self.scalars, numbers, strict=True):
                scalar.fill_(number)

    def take(self, batch: Batch) -> StepStats:
        """Take the step that `set_numbers` made ready, entirely on the device."""
        numbers = self.numbers
        for group in self.optimizer.param_groups:
            group["lr"] = numbers.lr
        row = self.gradient(batch, self.inputs_of)
        gradient, loss_sum, correct = row.split([self.weights.numel(), 1, 1])
        self.weights.grad = gradient
        grad_norm = self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(numbers.average_share)
        return StepStats(loss_sum[0], correct[0], grad_norm)

    def inputs_of(self, part: Batch) -> Tensor:
        """A part of the batch as the model sees it in this step: distorted, float32."""
        numbers, images = self.numbers, pixels(part.images)
        return self.distortion.distort(images, part.ids, numbers.stream, numbers.strength)

    def _clip(self) -> Tensor:
        """Shorten the gradient to ``train.clip_norm`` if it is longer; gives its norm before."""
        self.scaler.unscale_(self.optimizer)
        assert self.weights.grad is not None
        norm = torch.linalg.vector_norm(self.weights.grad)
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.weights, self.config.train.clip_norm, norm)
        return norm


def _scalars(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lr, strength, share = torch.zeros(3, device=device)
    return lr, torch.zeros((), dtype=torch.int64, device=device), strength, share
