"""One optimizer step on a process's share of a global batch."""

from __future__ import annotations

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
from lenet_dist.plan import Plan
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
        loss_sum, correct = self.gradient(batch, epoch=step // self.plan.steps_per_epoch)
        grad_norm = self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(step + 1)
        return StepStats(loss_sum, correct, grad_norm)

    def _fixed(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Leave the global batch's gradient in the parameters, summed in the fixed order."""
        rows = []
        for shard in _shards(batch, self.plan.shards_per_process):
            with self.accelerator.no_sync(self.model):
                loss_sum, correct = self._forward(shard, epoch)
                self.scaler.scale(loss_sum / self.plan.batch_size).backward()
            gradients = [p.grad.flatten() for p in self.parameters if p.grad is not None]
            rows.append(torch.cat([*gradients, loss_sum.detach()[None], correct[None]]))
            self.optimizer.zero_grad()
        total = sum_over_shards(torch.stack(rows), self.accelerator)
        *gradients, stats = total.split([p.numel() for p in self.parameters] + [2])
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return stats[0], stats[1]

    def _ddp(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Leave the global batch's gradient in the parameters, averaged by DDP's all-reduce."""
        loss_sum, correct = self._forward(batch, epoch)
        self.scaler.scale(loss_sum / len(batch.labels)).backward()
        return loss_sum.detach(), correct

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
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.train.clip_norm, norm)
        return norm


def _shards(batch: Batch, count: int) -> list[Batch]:
    parts = [tensor.chunk(count) for tensor in batch]
    return [Batch(*shard) for shard in zip(*parts, strict=True)]
