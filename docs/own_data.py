"""scikit-learn's digits, 8 x 8 pixels, with a model, data and an optimizer of one's own.

accelerate launch docs/own_data.py data.validation=200 train.batch_size=64 run.name=digits
torchrun --nproc-per-node 3 docs/own_data.py data.validation=200 train.batch_size=64 run.name=digits
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lenet_dist import exits, train
from lenet_dist.config import Config
from lenet_dist.train.task import Task


def digits(config: Config, split: str) -> tuple[Tensor, Tensor]:
    """Images float32 [N, 1, 8, 8] in [0, 1] and labels int64 [N]: 1,497 to train, 300 to test."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    chosen = slice(300, None) if split == "train" else slice(300)
    return images[chosen], torch.tensor(data.target)[chosen]


def model(config: Config) -> nn.Module:
    """Logits [n, 10] of images [n, 1, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(512, 10),
    )  # fmt: skip


def optimizer(config: Config, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases and norms; `config` has the rate and its schedule."""
    parameters = [parameter for _, parameter in named]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.optimizer.lr)


def main(arguments: list[str]) -> None:
    train.main(arguments, Task(model, dataset=digits, optimizer=optimizer))


if __name__ == "__main__":
    exits.run(main)
