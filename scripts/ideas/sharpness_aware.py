"""Sharpness-aware minimisation (Foret et al., 2021, equation 3): the gradient is taken where the
loss is greatest nearby. A step takes twice as long."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lenet_dist import exits, train
from lenet_dist.data.dataset import Batch
from lenet_dist.plan import Plan
from lenet_dist.training import job
from lenet_dist.training.gradient import Gradient
from lenet_dist.training.state import TrainState
from lenet_dist.training.step import TrainStep

_RADIUS = 0.05
"""How far away in weights that is: the paper's."""


class SharpnessAware(TrainStep):
    def __init__(self, plan: Plan, gradient: Gradient, state: TrainState) -> None:
        super().__init__(plan, gradient, state)
        self.gradient = self._uphill
        self._gradient_here = gradient

    @torch.no_grad()
    def _uphill(self, batch: Batch, inputs_of: Callable[[Batch], Tensor]) -> Tensor:
        here = self._gradient_here(batch, inputs_of)[: self.weights.numel()]
        before = self.weights.clone()
        self.weights.add_(here * (_RADIUS / here.norm().clamp_min(1e-12)))
        row = self._gradient_here(batch, inputs_of)
        self.weights.copy_(before)
        return row


def main(arguments: list[str]) -> None:
    job.TrainStep = SharpnessAware
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
