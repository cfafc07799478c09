"""A moving average that reaches back a share of the steps so far (Karras et al., 2024, "Analyzing
and improving the training dynamics of diffusion models", section 3): a power profile."""

from __future__ import annotations

from lenet_dist import exits, train
from lenet_dist.model.ema import MovingAverage
from lenet_dist.training import state

_POWER = 17
"""About 5% of the steps."""


class AverageByShare(MovingAverage):
    def share(self, step: int) -> float:
        return 1 - (1 - 1 / step) ** _POWER


def main(arguments: list[str]) -> None:
    state.MovingAverage = AverageByShare
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
