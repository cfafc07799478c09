"""An exponential moving average of weights (Polyak averaging)."""

from __future__ import annotations

from torch import Tensor


class MovingAverage:
    """The moving average of flat weights [P]: `mean` [P]."""

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.weights = weights.detach()
        self.mean = self.weights.clone()
        self.decay = decay

    def share(self, step: int) -> float:
        """The share of the weights after step number `step` (from 1) in the mean.

        The decay warms up, so that the random first weights are soon forgotten.
        """
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def update(self, share: float | Tensor) -> None:
        """Add the present weights to the mean by `share`, a number or a scalar on the device."""
        self.mean.lerp_(self.weights, share)
