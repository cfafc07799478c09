"""The optimizers, by name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lenet_dist.config import Optimizer


def build(config: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """torch.optim's optimizer, fused: one kernel for all tensors, not dozens of small ones."""
    lr, weight_decay = config.lr, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters, lr, momentum=config.momentum, weight_decay=weight_decay, fused=True
        )
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    betas = (config.beta1, config.beta2)
    return kind(parameters, lr, betas=betas, weight_decay=weight_decay, fused=True)
