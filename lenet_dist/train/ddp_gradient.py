"""The gradient by DDP's own all-reduce, overlapped with the backward pass, in its own order."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from lenet_dist.config import Config
from lenet_dist.data.augment import Augmentation
from lenet_dist.data.dataset import Batch, pixels
from lenet_dist.train.local_sums import model_inputs
from lenet_dist.train.shard_gradients import correct, flat_row, random_numbers_of
from lenet_dist.train.state import TrainState
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.stopwatch import Mark, Stopwatch
from lenet_dist.train.task import Loss
from lenet_dist.train.task_check import Traits


class DdpGradient:
    """The mean gradient of all processes; loss and correct count are this process's alone."""

    def __init__(
        self,
        state: TrainState,
        loss: Loss,
        config: Config,
        rank: int,
        stopwatch: Stopwatch,
        traits: Traits,
    ) -> None:
        self.model = state.prepared
        self.parameters = list(state.trainable.values())
        self.scaler = state.scaler
        self.loss = loss
        self.config = config
        self.augmentation = Augmentation(config.augment, config.seed)
        self.rank = rank
        self.draws_random_numbers = traits.draws_random_numbers
        self.stopwatch = stopwatch
        self._arrived = 0
        self._expected = 0
        """How many gradients a backward pass gives, once that is known."""
        self._last_gradient: Mark | None = None
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def warm_up(self, batch: Batch) -> None:
        """Take a backward pass whose gradients are thrown away. A collective.

        After its first backward pass DDP makes its buckets anew, and from then on adds in another
        order: without this, a start's first step would have other bits than the same step later.
        """
        self._backward(pixels(batch.images), batch.labels, 0)
        self._expected = self._arrived

    def __call__(self, batch: Batch, step: int, params: StepParams) -> Tensor:
        """The global batch's gradient, and this process's loss and number of correct predictions,
        as one vector [P + COUNTS]. A collective."""
        return self._backward(model_inputs(self.augmentation, batch, params), batch.labels, step)

    def _backward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        self._arrived, self._last_gradient = 0, None
        random_numbers = random_numbers_of(self.config.seed, step, self.rank, inputs.device)
        with random_numbers if self.draws_random_numbers else nullcontext():
            logits = self.model(inputs)
            loss_sum = self.loss(logits, labels, self.config.train.label_smoothing)
            self.scaler.scale(loss_sum / len(labels)).backward()
        if self._last_gradient is not None:
            self.stopwatch.add_wait(self._last_gradient)
        gradients = tuple(
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters
        )
        total = flat_row(gradients, loss_sum, correct(logits, labels))
        for parameter in self.parameters:
            parameter.grad = None
        return total

    def _note_gradient(self, _: Tensor) -> None:
        """Called for each gradient: after the last one, DDP waits for the other processes.

        Only that one is marked, because an event of a graph must live as long as the graph.
        """
        self._arrived += 1
        if self._arrived == self._expected:
            self._last_gradient = self.stopwatch.mark()
