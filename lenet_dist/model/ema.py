"""An exponential moving average of weights (Polyak averaging)."""

from __future__ import annotations

from torch import Tensor


class Ema:
    """The moving average of flat weights [P]: `mean` [P]."""

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.weights = weights.detach()
        self.mean = self.weights.clone()
        self.decay = decay

    def weight(self, step: int) -> float:
        """The weight in the mean of the parameters after step number `step` (from 1).

        The decay warms up, so that the random first weights are soon forgotten.
        """
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def update(self, weight: float | Tensor) -> None:
        """Move the mean towards the present parameters by `weight`, a number or a scalar on the
        device."""
        self.mean.lerp_(self.weights, weight)
