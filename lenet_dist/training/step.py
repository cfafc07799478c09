"""One optimizer step on a process's share of a global batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from lenet_dist.config import Config
from lenet_dist.data import augment
from lenet_dist.data.augment import Distortion
from lenet_dist.data.dataset import Batch, pixels
from lenet_dist.model.ema import MovingAverage
from lenet_dist.model.lenet5 import PARAMETERS, LeNet5
from lenet_dist.plan import Plan
from lenet_dist.runtime.exchange import Gather
from lenet_dist.runtime.workers import ALONE, Workers
from lenet_dist.training import gradient as gradients
from lenet_dist.training import optimizer as optimizers
from lenet_dist.training.gradient import ByAutograd, ByHand, ShardGradient
from lenet_dist.training.reduction import sum_over_shards
from lenet_dist.training.schedule import learning_rate


class StepStats(NamedTuple):
    """Of one step, on the device: loss summed over samples, samples right, gradient's norm.

    Under ``reduction: fixed`` all are over the global batch; under ``ddp`` the first two are over
    this process's share.
    """

    loss_sum: Tensor
    correct: Tensor
    grad_norm: Tensor


class StepNumbers(NamedTuple):
    """What a step takes from its number alone."""

    lr: float | Tensor
    stream: int | Tensor
    """The distortion's random numbers, 64 bits as int64."""
    strength: float | Tensor
    """How strong it is, 1 in full."""
    average_share: float | Tensor
    """What the new weights count in the running mean."""


class TrainStep:
    """Forward, backward, the gradient's sum, clipping, update, moving average."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        accelerator: Accelerator,
        model: LeNet5,
        wrapped: nn.Module,
        optimizer: AcceleratedOptimizer,
        average: MovingAverage | None,
        workers: Workers,
        gather: Gather,
    ) -> None:
        self.config = config
        self.plan = plan
        self.accelerator = accelerator
        self.model = wrapped
        self.parameters = list(model.parameters())
        # Accelerate's own backward, step and zero_grad look for optional packages at every call,
        # and a step may call them for each of its shards. These are the objects that they wrap.
        self.optimizer: torch.optim.Optimizer = optimizer.optimizer
        self.weights = optimizers.weights_of(self.optimizer)
        self.scaler = accelerator.scaler or torch.amp.GradScaler(enabled=False)
        self.average = average
        self.distortion = Distortion(config.augment, config.seed)
        self.sums = self._by_ddp if _is_ddps(config, plan) else self._by_shards
        self.gather = gather
        self.shard_gradient: ShardGradient = ByAutograd(wrapped, config, self.scaler)
        if is_by_hand(config, accelerator):
            self.shard_gradient = ByHand(model, config)
        # On a GPU they are scalars there, so that a captured step sees each step's own.
        self.scalars = _scalars(accelerator.device) if accelerator.device.type == "cuda" else None
        self.numbers = StepNumbers(*(self.scalars or (0.0, 0, 0.0, 0.0)))
        self.workers = workers if is_by_workers(config, accelerator) else ALONE

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
        """Take the step that is made ready, all of it on the device."""
        numbers = self.numbers
        for group in self.optimizer.param_groups:
            group["lr"] = numbers.lr
        sums = self.sums(batch, numbers)
        gradient, loss_sum, correct = sums.split([PARAMETERS, 1, 1])
        self.weights.grad = gradient
        grad_norm = self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(numbers.average_share)
        return StepStats(loss_sum[0], correct[0], grad_norm)

    def _by_shards(self, batch: Batch, numbers: StepNumbers) -> Tensor:
        """Gradient, loss and samples right of the global batch, summed in the fixed order."""

        def rows(part: Batch) -> Tensor:
            inputs = self._distorted(part, numbers)
            size = self.plan.shard_size
            shards = zip(inputs.split(size), part.labels.split(size), strict=True)
            return torch.stack([self.shard_gradient(*shard) for shard in shards])

        with self.accelerator.no_sync(self.model):
            found = self.workers.map(rows, self._dealt(batch))
        return sum_over_shards(torch.cat(found), self.gather)

    def _distorted(self, batch: Batch, numbers: StepNumbers) -> Tensor:
        return self.distortion.distort(
            pixels(batch.images), batch.ids, numbers.stream, numbers.strength
        )

    def _dealt(self, batch: Batch) -> list[Batch]:
        """The batch in a part of whole shards for each worker, as equal as can be."""
        shards, size = self.plan.shards_per_process, self.plan.shard_size
        count = min(self.workers.count, shards)
        sizes = [(shards + part) // count * size for part in range(count)]
        return [Batch(*part) for part in zip(*(t.split(sizes) for t in batch), strict=True)]

    def _by_ddp(self, batch: Batch, numbers: StepNumbers) -> Tensor:
        """The same, the gradient averaged by DDP's all-reduce, the rest of this process's share."""
        inputs, labels = self._distorted(batch, numbers), batch.labels
        logits = self.model(inputs)
        loss_sum = gradients.loss(logits, labels, self.config.train.label_smoothing)
        self.scaler.scale(loss_sum / len(labels)).backward()
        found = [p.grad for p in self.parameters if p.grad is not None]
        row = gradients.row(*found, loss_sum, gradients.correct(logits, labels))
        for parameter in self.parameters:
            parameter.grad = None
        return row

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


def _is_ddps(config: Config, plan: Plan) -> bool:
    """Whether DDP has something to reduce: one process's gradient is that of its only shard."""
    return config.train.reduction == "ddp" and plan.world_size > 1


def is_by_hand(config: Config, accelerator: Accelerator) -> bool:
    """Whether the written-out passes do, which are for float32 on a CPU."""
    compute = config.compute
    return accelerator.device.type == "cpu" and compute.precision == "no" and not compute.compile


def is_by_workers(config: Config, accelerator: Accelerator) -> bool:
    """Whether threads work on a shard each, and not on each shard together."""
    return is_by_hand(config, accelerator) and config.train.reduction == "fixed"
