"""An exponential moving average of weights (Polyak averaging)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MovingAverage:
    """The running mean of a model's weights: `means`, by parameter name."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights = {name: p.detach() for name, p in model.named_parameters()}
        self.means = {name: weight.clone() for name, weight in self.weights.items()}
        self.decay = decay

    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 1).

        The decay warms up, so that the random weights of the beginning are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        means, weights = list(self.means.values()), list(self.weights.values())
        torch._foreach_lerp_(means, weights, 1 - decay)

    def load(self, means: dict[str, Tensor]) -> None:
        """Take these means instead."""
        for name, mean in self.means.items():
            mean.copy_(means[name])
