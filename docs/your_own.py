"""A small ResNet with a loss of its own, trained by this project's job. docs/your-own.md explains.

accelerate launch docs/your_own.py data.name=fashion_mnist run.name=resnet
torchrun --nproc-per-node 3 docs/your_own.py data.name=fashion_mnist run.name=resnet
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist import exits, train
from lenet_dist.train.task import Task


class Block(nn.Module):
    """Two convolutions beside a shortcut, half the side (He et al., 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(
            4, outputs
        )  # BatchNorm's result depends on the rest of the batch.
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Logits [n, 10] of pixels [n, 1, 28, 28] in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(1, 16), Block(16, 32), Block(32, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.blocks(pixels).mean((2, 3)))


def focal_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy that cares less for what is right already (Lin et al., 2017), summed."""
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return ((1 - torch.exp(-losses)) * losses).sum()


def main(arguments: list[str]) -> None:
    train.main(arguments, Task(model=lambda config: ResNet(), loss=focal_loss))


if __name__ == "__main__":
    exits.run(main)
