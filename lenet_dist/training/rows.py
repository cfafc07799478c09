"""A row for each shard: its gradient, its loss and its hits, by autograd or by the written-out
passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

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

RowOfShard = Callable[[Tensor, Tensor], Tensor]
"""Takes a shard's inputs [n, 1, 28, 28] and labels [n]; gives its row [1, P + COUNTS]."""

_STREAMS = 8
"""Each takes cuBLAS's 32 MiB twice: once for the forward, once for the backward pass's thread."""


class Rows(Protocol):
    """Takes inputs [n, 1, 28, 28], labels [n] and the number of equal shards that these consist of,
    in a row; gives the rows [shards, P + COUNTS]."""

    def __call__(self, inputs: Tensor, labels: Tensor, shards: int = 1, /) -> Tensor: ...


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
        # The scaler makes its scale at its first use, which must come before streams part.
        self.scaler.scale(torch.zeros((), device=accelerator.device))

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """A shard's row [1, P + COUNTS]. Under fp16 its gradient is scaled by the scaler."""
        with self.accelerator.no_sync(self.model):
            logits = self.model(inputs)
            loss_sum = self.loss(logits, labels, self.smoothing)
            scaled = self.scaler.scale(loss_sum / self.batch_size)
            gradients = torch.autograd.grad(scaled, self.parameters)
        return row(*gradients, loss_sum, correct(logits, labels))[None]


class ByHand:
    """For float32: no graph is built and walked, and many shards are computed at once."""

    def __init__(self, model: LeNet5, train: Train) -> None:
        self.model = model
        self.parameters = [p.detach() for p in model.parameters()]
        self.batch_size = train.batch_size
        smoothing = train.label_smoothing
        classes = torch.eye(CLASSES, device=self.parameters[0].device)
        self.targets = classes * (1 - smoothing) + smoothing / CLASSES

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


def one_by_one(row_of_shard: RowOfShard) -> Rows:
    """Rows, from a function that gives a single shard's."""

    def rows(inputs: Tensor, labels: Tensor, shards: int = 1) -> Tensor:
        parts = zip(inputs.chunk(shards), labels.chunk(shards), strict=True)
        return torch.cat([row_of_shard(*part) for part in parts])

    return rows


def side_by_side(row_of_shard: RowOfShard, device: torch.device) -> Rows:
    """The same for a GPU, where one shard's small kernels leave room for others': shards are dealt
    out to several streams.

    It can be captured, for the streams part from the current one and join it again. No memory is
    reused too early: what a stream allocates, only that stream reuses, after it has parted from the
    current one again.
    """
    streams = [torch.cuda.Stream(device) for _ in range(_STREAMS)]
    # DDP keeps autograd's last nodes, and with them its own stream. That costs a wait, no more.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def rows(inputs: Tensor, labels: Tensor, shards: int = 1) -> Tensor:
        if shards == 1:
            return row_of_shard(inputs, labels)
        current = torch.cuda.current_stream(device)
        for stream in streams:
            stream.wait_stream(current)
        found = []
        parts = zip(inputs.chunk(shards), labels.chunk(shards), strict=True)
        for part, stream in zip(parts, itertools.cycle(streams), strict=False):
            with torch.cuda.stream(stream):
                found.append(row_of_shard(*part))
        for stream in streams:
            current.wait_stream(stream)
        return torch.cat(found)

    return rows


def filled(rows: Rows, size: int) -> Rows:
    """The same rows, always computed for `size` shards at once, so that the same kernels run for
    any number of shards up to that; those that are missing repeat the first."""

    def of_size(inputs: Tensor, labels: Tensor, shards: int = 1) -> Tensor:
        if shards < size:
            inputs, labels = (_filled_up(t, shards, size) for t in (inputs, labels))
        return rows(inputs, labels, size)[:shards]

    return of_size


def _filled_up(values: Tensor, shards: int, size: int) -> Tensor:
    of_shards = values.unflatten(0, (shards, -1))
    missing = of_shards[:1].expand(size - shards, *of_shards.shape[1:])
    return torch.cat([of_shards, missing]).flatten(0, 1)


def is_bit_equal(rows: Rows, inputs: Tensor, labels: Tensor, shards: int) -> bool:
    """Whether many shards at once have the same bits as one by one, on this machine.

    No library promises it: kernels may change with the number of images.
    """
    together = rows(inputs, labels, shards)
    alone = one_by_one(rows)(inputs, labels, shards)
    return torch.equal(together.view(torch.int32), alone.view(torch.int32))


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of logits [n, 10] are greatest at their label, a float32 scalar."""
    return (logits.detach().argmax(1) == labels).sum().float()


def row(*parts: Tensor) -> Tensor:
    """All that is summed over shards, as one vector."""
    return torch.cat([part.detach().flatten() for part in parts])
