"""Models of other kinds than the package's, as a team would bring them: what test_custom_models
starts. The variable TASK says which."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist import train
from lenet_dist.config import Config
from lenet_dist.train.task import Task


class Transformer(nn.Module):
    """Rows of the image as tokens, through an encoder's layers (LayerNorm, attention)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(28, width)
        self.register_buffer("places", torch.sin(torch.arange(28.0)[:, None] * torch.rand(width)))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.back = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, int(os.environ.get("CLASSES", "10")))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels.squeeze(1)) + self.places
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)
        x = x + self.out((attention @ v).transpose(1, 2).flatten(2))
        x = x + self.back(F.gelu(self.hidden(self.norm2(x))))
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """torch's own encoder layer, whose fused attention torch.func can't transform everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(28, 4, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(28, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.layer(pixels.squeeze(1)).mean(1))


class Dropout(nn.Module):
    """A perceptron that drops half of what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(784, 64), nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(F.dropout(F.relu(self.hidden(pixels.flatten(1))), 0.5, self.training))


class Partly(nn.Module):
    """A frozen layer, buffers that standardise, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.3))
        self.register_buffer("counts", torch.arange(3))
        self.features = nn.Conv2d(1, 8, 5, stride=3)
        self.features.requires_grad_(False)
        self.mix = nn.Linear(512, 32)
        self.norm = nn.BatchNorm1d(32).eval()  # Its statistics stay as they are.
        self.head = nn.Linear(32, 10)
        self.again = self.head

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.relu(self.features(pixels - self.mean)).flatten(1)
        return self.again(F.relu(self.norm(self.mix(x))))


def in_groups(config: Config, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """No decay and half the rate for vectors."""
    parameters = dict(named).values()
    return torch.optim.NAdam(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() == 1], "lr": config.optimizer.lr / 2},
        ],
        config.optimizer.lr,
    )


TASKS = {
    "transformer": Task(lambda config: Transformer()),
    "encoder": Task(lambda config: Encoder()),
    "dropout": Task(lambda config: Dropout()),
    "partly": Task(lambda config: Partly(), optimizer=in_groups),
}


def main(arguments: list[str]) -> None:
    """Train the task that TASK names, as asked; the generator of this process stays as it was."""
    before = torch.get_rng_state()
    train.main(arguments, TASKS[os.environ["TASK"]])
    assert torch.equal(torch.get_rng_state(), before)
