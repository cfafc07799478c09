"""A row for each shard: its gradient, its loss and its hits, by autograd or by the written-out
passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.config import Train
from lenet_dist.data.dataset import CLASSES
from lenet_dist.model import backpropagation
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.training.state import TrainState
from lenet_dist.training.task import Task

COUNTS = 2
"""A row [P + COUNTS] holds a shard's gradient (of its summed loss divided by the global batch), its
summed loss, and the number of its samples that are right."""

Rows = Callable[[Tensor, Tensor, int], Tensor]
"""Takes inputs [n, 1, 28, 28], labels [n] and the number of equal shards that these consist of, in
a row; gives the rows [shards, P + COUNTS]."""


class ByAutograd:
    """For any device and precision, one shard at a time."""

    def __init__(
        self, accelerator: Accelerator, state: TrainState, task: Task, train: Train
    ) -> None:
        self.accelerator = accelerator
        self.model = state.wrapped
        self.parameters = list(self.model.parameters())
        self.scaler = state.scaler
        self.loss = task.loss
        self.smoothing = train.label_smoothing
        self.batch_size = train.batch_size

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """A shard's row [1, P + COUNTS]. Under fp16 its gradient is scaled by the scaler."""
        with self.accelerator.no_sync(self.model):
            logits = self.model(inputs)
            loss_sum = self.loss(logits, labels, self.smoothing)
            scaled = self.scaler.scale(loss_sum / self.batch_size)
            gradients = torch.autograd.grad(scaled, self.parameters)
        return row(*gradients, loss_sum, correct(logits, labels))[None]


class ByHand:
    """For float32 on a CPU: no graph is built and walked, and many shards are computed at once."""

    def __init__(self, model: LeNet5, train: Train) -> None:
        self.model = model
        self.parameters = [p.detach() for p in model.parameters()]
        self.batch_size = train.batch_size
        smoothing = train.label_smoothing
        self.targets = torch.eye(CLASSES) * (1 - smoothing) + smoothing / CLASSES

    def __call__(self, inputs: Tensor, labels: Tensor, shards: int = 1) -> Tensor:
        """The shards' rows: see Rows."""
        return self._rows(inputs, labels, shards)

    def of_all(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One row [1, P + COUNTS] for all images: a little faster, without the bits of shards."""
        return self._rows(inputs, labels, None)

    @torch.inference_mode()
    def _rows(self, inputs: Tensor, labels: Tensor, shards: int | None) -> Tensor:
        logits, passed = backpropagation.forward(self.model.standardised(inputs), self.parameters)
        targets = self.targets[labels]
        losses = -(logits.log_softmax(1) * targets).sum(1)
        hits = (logits.argmax(1) == labels).float()
        # The gradient of the cross-entropy is the probabilities minus the targets.
        out = logits.softmax(1).sub_(targets).div_(self.batch_size)
        gradients = backpropagation.backward(out, passed, self.parameters, shards)
        count = shards or 1
        sums = (values.view(count, -1).sum(1) for values in (losses, hits))
        return torch.cat([part.reshape(count, -1) for part in (*gradients, *sums)], 1)


def one_by_one(row_of_shard: Callable[[Tensor, Tensor], Tensor]) -> Rows:
    """Rows, from a function that gives a single shard's row [1, P + COUNTS]."""

    def rows(inputs: Tensor, labels: Tensor, shards: int) -> Tensor:
        parts = zip(inputs.chunk(shards), labels.chunk(shards), strict=True)
        return torch.cat([row_of_shard(*part) for part in parts])

    return rows


def is_bit_equal(by_hand: ByHand, inputs: Tensor, labels: Tensor, shards: int) -> bool:
    """Whether many shards at once have the same bits as one by one, on this machine.

    No library promises it: kernels may change with the number of images.
    """
    together = by_hand(inputs, labels, shards)
    alone = one_by_one(by_hand)(inputs, labels, shards)
    return torch.equal(together.view(torch.int32), alone.view(torch.int32))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of logits [n, 10] are greatest at their label, a float32 scalar."""
    return (logits.detach().argmax(1) == labels).sum().float()


def row(*parts: Tensor) -> Tensor:
    """All that is summed over shards, as one vector."""
    return torch.cat([part.detach().flatten() for part in parts])
