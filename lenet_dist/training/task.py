"""What is trained: a model and its loss. The seam for a model of your own (docs/your-own.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist.config import Config
from lenet_dist.model.initialisation import seeded
from lenet_dist.model.lenet5 import LeNet5

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""From logits, labels and ``train.label_smoothing``, the loss summed over the samples: a scalar."""


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits [n, C] and labels [n], summed over the samples: a scalar."""
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


@dataclass(frozen=True)
class Task:
    """What is trained.

    `model` makes the model from the config, on the CPU, with torch's random numbers seeded by the
    config's seed. The model gives logits [n, 10] of pixels [n, 1, 28, 28] in [0, 1]. An image's
    logits must not depend on the rest of the batch, and training must not change any buffers.
    """

    model: Callable[[Config], nn.Module]
    loss: Loss = cross_entropy

    def build(self, config: Config) -> nn.Module:
        """The model with its first weights, a function of the seed."""
        with seeded(config.seed):
            return self.model(config)


LENET5 = Task(lambda config: LeNet5(config.model.mean, config.model.std))
"""The only task with written-out passes (model/backpropagation.py)."""
