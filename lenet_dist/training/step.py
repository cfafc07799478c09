"""One optimizer step: gradient, clipping, the update, the moving average."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from lenet_dist.data import augment
from lenet_dist.data.augment import Distortion
from lenet_dist.data.dataset import Batch
from lenet_dist.plan import Plan
from lenet_dist.training.audit import Audit
from lenet_dist.training.ddp_gradient import DdpGradient
from lenet_dist.training.local_sums import LocalSums, StepNumbers, model_inputs
from lenet_dist.training.schedule import learning_rate
from lenet_dist.training.state import TrainState
from lenet_dist.training.tree_allreduce import Sums, TreeAllReduce
from lenet_dist.training.window import StepStats


class ShardedGradient(NamedTuple):
    """The gradient as a sum over shards, of which `shards` are this process's."""

    shards: range
    local_sums: LocalSums
    all_reduce: TreeAllReduce


class TrainStep:
    """Takes optimizer steps on this process's part of the global batches.

    `audit` compares what the processes compute, where that is due.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        gradient: ShardedGradient | DdpGradient,
        audit: Audit | None = None,
    ) -> None:
        self.plan = plan
        self.config = plan.config
        self.state = state
        self.gradient = gradient
        self.audit = audit
        self.augmentation = Distortion(plan.config.augment, plan.config.seed)
        device = state.flat.device
        # On a GPU they are scalars in its memory, so that a captured step sees each step's values.
        self.on_device = _on_device(device, len(state.peaks)) if device.type != "cpu" else None
        self.numbers = self.on_device or StepNumbers([], 0, 0.0, 0.0)

    def __call__(self, batch: Batch, step: int) -> StepStats:
        """Take step number `step` (from 0) on this process's samples."""
        self.set_numbers(step)
        return self.take(batch, step)

    def set_numbers(self, step: int) -> None:
        """Make ready for step number `step` (from 0), without waiting for the device."""
        plan, config = self.plan, self.config
        epoch, epochs = step // plan.steps_per_epoch, plan.epoch_of(plan.total_steps)
        average = self.state.average
        numbers = StepNumbers(
            lrs=[
                learning_rate(config.schedule, peak, step, plan.total_steps)
                for peak in self.state.peaks
            ],
            stream=self.augmentation.stream(epoch),
            strength=augment.strength(config.augment, epoch, epochs),
            average_share=average.share(step + 1) if average else 0.0,
        )
        if self.on_device is None:
            self.numbers = numbers
        else:
            for scalar, number in zip(_scalars(self.on_device), _scalars(numbers), strict=True):
                scalar.fill_(number)

    def take(self, batch: Batch, step: int) -> StepStats:
        """Take the step that `set_numbers` made ready, entirely on the device."""
        state, numbers = self.state, self.numbers
        sums: Sums | None = None  # DDP has none.
        for group, lr in zip(state.optimizer.param_groups, numbers.lrs, strict=True):
            group["lr"] = lr
        if isinstance(self.gradient, DdpGradient):
            inputs = model_inputs(self.augmentation, batch, numbers)
            row = self.gradient(inputs, batch.labels, step)
        else:
            sums = self.gradient.local_sums(batch, self.gradient.shards, step, numbers)
            if self.audit and self.audit.is_due(step):
                self.audit.compare_sums(step, sums, numbers)
            row = self.gradient.all_reduce(sums)
        gradient, loss_sum, correct = row.split([state.flat.numel(), 1, 1])
        state.set_gradient(gradient)
        state.scaler.unscale_(state.optimizer)
        norm = torch.linalg.vector_norm(gradient)
        if self.audit and sums is not None and self.on_device is None:
            # On a GPU, reading them would wait: the next train line looks there.
            self.audit.check_finite(step, float(loss_sum), float(norm), sums, numbers)
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(state.flat, self.config.train.clip_norm, norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            state.average.update(numbers.average_share)
        return StepStats(loss_sum[0], correct[0], norm)


def _scalars(numbers: StepNumbers) -> list[Any]:
    return [*numbers.lrs, *numbers[1:]]


def _on_device(device: torch.device, groups: int) -> StepNumbers:
    strength, share = torch.zeros(2, device=device)
    stream = torch.zeros((), dtype=torch.int64, device=device)
    return StepNumbers(torch.zeros(groups, device=device), stream, strength, share)
