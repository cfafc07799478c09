"""Orthogonal first weights, scaled for ReLU (Saxe, McClelland and Ganguli, 2014, section 3)."""

from __future__ import annotations

from torch import nn

from lenet_dist import exits, train
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.training import task


class Orthogonal(LeNet5):
    def __init__(self, mean: float, std: float) -> None:
        super().__init__(mean, std)
        for layer in (self.C1, self.C3, self.C5, self.F6):
            nn.init.orthogonal_(layer.weight, nn.init.calculate_gain("relu"))
        nn.init.orthogonal_(self.OUT.weight)


def main(arguments: list[str]) -> None:
    task.LeNet5 = Orthogonal
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
