"""The gradient of each of a process's shards, in bits that do not depend on who computes it.

There are three ways: many shards at once by torch.func, for any model; one shard after the other by
plain autograd; and LeNet-5's own kernel. Which one is a matter of the run (gradient_choice.py).

A row [P + COUNTS] holds a shard's gradient with respect to the P trainable weights (of its summed
loss divided by the global batch), its summed loss, and the number of its samples that are right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lenet_dist.config import Config
from lenet_dist.data import counter
from lenet_dist.kernels import native
from lenet_dist.model.initialisation import seeded
from lenet_dist.train.state import TrainState
from lenet_dist.train.task import Loss
from lenet_dist.train.tree_allreduce import tree_sum

COUNTS = 2


class ShardGradients(Protocol):
    """Computes rows, at most `at_once` at a time, and adds them along the tree."""

    at_once: int

    def __call__(self, pixels: Tensor, labels: Tensor, shards: range, step: int) -> Tensor:
        """The rows [shards, P + COUNTS] of consecutive shards, given their inputs [n, ...] and
        labels [n] in a row."""
        ...

    def tree_sum(self, rows: Tensor) -> Tensor:
        """The sum [P + COUNTS] of the rows of a block: tree_allreduce.tree_sum's bits."""
        ...


class ManyAtOnce:
    """Rows of any model, many at a time: torch.func computes them as one batch.

    A shard has the same bits beside any number of other shards, but other ones by itself: a lone
    shard is computed beside a copy of itself. `size`: compute as many each time, filled up with
    copies, because a GPU's libraries choose kernels by the size of the work.
    """

    tree_sum = staticmethod(tree_sum)

    def __init__(
        self, state: TrainState, loss: Loss, config: Config, at_once: int, size: int | None = None
    ) -> None:
        self.at_once = at_once
        self.size = size
        self.parameters = {name: p.detach() for name, p in state.trainable.items()}
        self.scaler = state.scaler
        self.share = state.flat.new_ones(()) / config.train.batch_size
        """Of a shard's summed loss in the loss whose gradient is taken."""

        def row_of_shard(
            parameters: dict[str, Tensor], pixels: Tensor, labels: Tensor, share: Tensor
        ) -> tuple[Tensor, ...]:
            def summed_loss(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
                logits = functional_call(state.prepared, parameters, (pixels,))
                loss_sum = loss(logits, labels, config.train.label_smoothing)
                return loss_sum, correct(logits, labels)

            loss_sum, gradient_of, right = vjp(  # type: ignore[misc]  # Three, with has_aux.
                summed_loss, parameters, has_aux=True
            )
            (gradients,) = gradient_of(share.to(loss_sum.dtype))
            return (*gradients.values(), loss_sum, right)

        self.rows = vmap(row_of_shard, in_dims=(None, 0, 0, None))

    def __call__(self, pixels: Tensor, labels: Tensor, shards: range, step: int) -> Tensor:
        """The rows of consecutive shards."""
        pixels, labels = (t.unflatten(0, (len(shards), -1)) for t in (pixels, labels))
        count = len(labels)
        missing = max(self.size or 2, count) - count
        if missing:
            pixels, labels = (
                torch.cat([t, t[:1].expand(missing, *t.shape[1:])]) for t in (pixels, labels)
            )
        # torch's fused attention on a CPU can't be transformed.
        with sdpa_kernel(SDPBackend.MATH) if pixels.device.type == "cpu" else nullcontext():
            parts = self.rows(self.parameters, pixels, labels, self.scaler.scale(self.share))
        return torch.cat([part.reshape(len(labels), -1) for part in parts], 1)[:count]


class OneByOne:
    """Rows of any model, one at a time, by plain autograd.

    For a model of which one shard fills the device, that torch.func can't transform, or that draws
    random numbers: torch's generator is then seeded for each shard, so that it draws the same
    whoever computes it.
    """

    at_once = 1
    tree_sum = staticmethod(tree_sum)

    def __init__(
        self, state: TrainState, loss: Loss, config: Config, *, draws_random_numbers: bool
    ) -> None:
        self.state = state
        self.loss = loss
        self.config = config
        self.draws_random_numbers = draws_random_numbers
        self.parameters = list(state.trainable.values())

    def __call__(self, pixels: Tensor, labels: Tensor, shards: range, step: int) -> Tensor:
        """The rows of consecutive shards."""
        parts = zip(pixels.chunk(len(shards)), labels.chunk(len(shards)), shards, strict=True)
        return torch.stack([self._row(*part, step) for part in parts])

    def _row(self, pixels: Tensor, labels: Tensor, shard: int, step: int) -> Tensor:
        train = self.config.train
        random_numbers = random_numbers_of(self.config.seed, step, shard, pixels.device)
        with random_numbers if self.draws_random_numbers else nullcontext():
            logits = self.state.prepared(pixels)
            loss_sum = self.loss(logits, labels, train.label_smoothing)
            scaled = self.state.scaler.scale(loss_sum / train.batch_size)
            gradients = torch.autograd.grad(scaled, self.parameters, materialize_grads=True)
        return flat_row(gradients, loss_sum, correct(logits, labels))


class NativeKernel:
    """Rows of LeNet-5 in float32 on a CPU, by the compiled kernel."""

    at_once = 64
    tree_sum = staticmethod(native.tree_sum)

    def __init__(self, state: TrainState, config: Config) -> None:
        self.weights = state.flat.detach()
        self.config = config

    def __call__(self, pixels: Tensor, labels: Tensor, shards: range, step: int) -> Tensor:
        """The rows of consecutive shards."""
        model, train = self.config.model, self.config.train
        return native.shard_gradients(
            self.weights, pixels, labels, len(shards), mean=model.mean, std=model.std,
            smoothing=train.label_smoothing, batch_size=train.batch_size,
        )  # fmt: skip


def is_bit_equal(rows: Callable[[range], Tensor], shards: range) -> bool:
    """Whether shards have the same bits together as each by itself, on this machine.

    No library promises it: kernels may change with the number of images.
    """
    together = rows(shards)
    alone = torch.cat([rows(range(shard, shard + 1)) for shard in shards])
    return torch.equal(together.view(torch.int32), alone.view(torch.int32))


def random_numbers_of(
    seed: int, step: int, shard: int, device: torch.device
) -> AbstractContextManager[None]:
    """Seed torch's generator for a shard of a step, and leave it as it was afterwards."""
    return seeded(counter.stream(seed, "shard", step, shard), device)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of logits [n, C] are greatest at their label, a float32 scalar."""
    return (logits.detach().argmax(1) == labels).sum(dtype=torch.float32)


def flat_row(gradients: tuple[Tensor, ...], loss_sum: Tensor, right: Tensor) -> Tensor:
    """All that is summed over shards, as one vector."""
    return torch.cat([part.detach().flatten() for part in (*gradients, loss_sum, right)])
