"""A job whose first step fails, whenever it is started: what test_restarts starts."""

from __future__ import annotations

from torch import Tensor

from lenet_dist import train
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.training.task import Task, cross_entropy


def fail(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    if logits.requires_grad:  # Not where a task is tried before training.
        raise RuntimeError("gloo and behold: this loss was never written")
    return cross_entropy(logits, labels, smoothing)


def main(arguments: list[str]) -> None:
    train.main(arguments, Task(model=lambda config: LeNet5(0.0, 1.0), loss=fail))
