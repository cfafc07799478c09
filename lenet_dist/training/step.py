"""One optimizer step on a process's share of a global batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from lenet_dist.config import Config
from lenet_dist.data.augment import Affine
from lenet_dist.data.dataset import Batch, pixels
from lenet_dist.model.ema import MovingAverage
from lenet_dist.model.lenet5 import PARAMETERS
from lenet_dist.plan import Plan
from lenet_dist.training import optimizer as optimizers
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


class TrainStep:
    """Forward, backward, the gradient's sum, clipping, update, moving average."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        average: MovingAverage | None,
    ) -> None:
        self.config = config
        self.plan = plan
        self.accelerator = accelerator
        self.model = model
        self.parameters = list(model.parameters())
        # Accelerate's own backward, step and zero_grad look for optional packages at every call,
        # and a step may call them for each of its shards. These are the objects that they wrap.
        self.optimizer: torch.optim.Optimizer = optimizer.optimizer
        self.weights = optimizers.weights_of(self.optimizer)
        self.scaler = accelerator.scaler or torch.amp.GradScaler(enabled=False)
        self.average = average
        self.distort = Affine(config.augment, config.seed)
        self.gradient = self._fixed if config.train.reduction == "fixed" else self._ddp

    def __call__(self, batch: Batch, step: int) -> StepStats:
        """Take step number `step` (from 0) on this process's share of its global batch."""
        peak, total_steps = self.config.optimizer.lr, self.plan.total_steps
        lr = learning_rate(self.config.schedule, peak, step, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums = self.gradient(batch, epoch=step // self.plan.steps_per_epoch)
        gradient, loss_sum, correct = sums.split([PARAMETERS, 1, 1])
        self.weights.grad = gradient
        grad_norm = self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(step + 1)
        return StepStats(loss_sum[0], correct[0], grad_norm)

    def _fixed(self, batch: Batch, epoch: int) -> Tensor:
        """Gradient, loss and samples right of the global batch, summed in the fixed order."""
        with self.accelerator.no_sync(self.model):
            rows = [
                self._shard(shard, epoch) for shard in _shards(batch, self.plan.shards_per_process)
            ]
        return sum_over_shards(torch.stack(rows), self.accelerator)

    def _shard(self, shard: Batch, epoch: int) -> Tensor:
        loss_sum, correct = self._forward(shard, epoch)
        loss = self.scaler.scale(loss_sum / self.plan.batch_size)
        return _row(torch.autograd.grad(loss, self.parameters), loss_sum, correct)

    def _ddp(self, batch: Batch, epoch: int) -> Tensor:
        """The same, the gradient averaged by DDP's all-reduce, the rest of this process's share."""
        loss_sum, correct = self._forward(batch, epoch)
        self.scaler.scale(loss_sum / len(batch.labels)).backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        row = _row(gradients, loss_sum, correct)
        for parameter in self.parameters:
            parameter.grad = None
        return row

    def _forward(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        inputs = self.distort(pixels(batch.images), batch.ids, epoch)
        logits = self.model(inputs)
        smoothing = self.config.train.label_smoothing
        loss_sum = F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing)
        correct = (logits.detach().argmax(1) == batch.labels).sum().to(loss_sum.dtype)
        return loss_sum, correct

    def _clip(self) -> Tensor:
        """Shorten the gradient to ``train.clip_norm`` if it is longer; gives its norm before."""
        self.scaler.unscale_(self.optimizer)
        assert self.weights.grad is not None
        norm = torch.linalg.vector_norm(self.weights.grad)
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.weights, self.config.train.clip_norm, norm)
        return norm


def _row(gradients: Sequence[Tensor], loss_sum: Tensor, correct: Tensor) -> Tensor:
    """[PARAMETERS + 2]: all that is summed, as one vector."""
    flat = [gradient.flatten() for gradient in gradients]
    return torch.cat([*flat, loss_sum.detach()[None], correct[None]])


def _shards(batch: Batch, count: int) -> list[Batch]:
    parts = [tensor.chunk(count) for tensor in batch]
    return [Batch(*shard) for shard in zip(*parts, strict=True)]
