"""An exponential moving average of weights (Polyak averaging)."""

from __future__ import annotations

from torch import Tensor, nn


class MovingAverage:
    """The running mean of a model's weights: `means`, by parameter name."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.weights = {name: p.detach() for name, p in model.named_parameters()}
        self.means = {name: weight.clone() for name, weight in self.weights.items()}
        self.decay = decay

    def share(self, step: int) -> float:
        """The share of the weights after step number `step` (from 1) in the mean.

        The decay warms up, so that the random first weights are soon forgotten.
        """
        return 1 - min(self.decay, (1 + step) / (10 + step))

    def update(self, share: float | Tensor) -> None:
        """Add the present weights to the mean by `share`, a number or a scalar on the device."""
        for mean, weight in zip(self.means.values(), self.weights.values(), strict=True):
            mean.lerp_(weight, share)

    def load(self, means: dict[str, Tensor]) -> None:
        """Replace the means by these."""
        for name, mean in self.means.items():
            mean.copy_(means[name])
