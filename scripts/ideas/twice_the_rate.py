"""Twice the learning rate for what Muon leaves to AdamW: the first layer, the last, the biases."""

from __future__ import annotations

import torch

from lenet_dist import exits, train
from lenet_dist.training import muon

_adamw_step = muon._adamw_step


def _faster_step(optimizer: torch.optim.Optimizer) -> None:
    (group,) = optimizer.param_groups
    lr = group["lr"]
    group["lr"] = 2 * lr
    _adamw_step(optimizer)
    group["lr"] = lr


def main(arguments: list[str]) -> None:
    muon._adamw_step = _faster_step
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
