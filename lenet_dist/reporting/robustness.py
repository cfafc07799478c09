"""How many images a model still gets right when they are harder than those it has seen."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from lenet_dist.data import dataset
from lenet_dist.data.corruption import KINDS, Kind
from lenet_dist.data.dataset import Images
from lenet_dist.model.lenet5 import LeNet5

IMAGES = 1000
"""The most images that are judged at each strength, evenly spread over the test set."""


@dataclass(frozen=True)
class Loss:
    """What one kind of corruption leaves of the accuracy."""

    kind: Kind
    accuracies: tuple[float, ...]
    """At each of the kind's strengths."""

    @property
    def mean(self) -> float:
        """Over the strengths."""
        return statistics.mean(self.accuracies)


@dataclass(frozen=True)
class Robustness:
    """What all kinds leave of the accuracy, and the accuracy on the same images as they are."""

    count: int
    clean: float
    losses: list[Loss]

    @property
    def mean(self) -> float:
        """Over the kinds."""
        return statistics.mean(loss.mean for loss in self.losses)


@torch.no_grad()
def measure(model: LeNet5, test: Images) -> Robustness:
    """Measure a model on the CPU on the test images; this takes about a second."""
    chosen = slice(None, None, -(-len(test) // IMAGES))
    pixels, labels = dataset.pixels(test.images[chosen]), test.labels[chosen]

    def accuracy(inputs: torch.Tensor) -> float:
        return float((model(inputs).argmax(1) == labels).double().mean())

    losses = [
        Loss(kind, tuple(accuracy(kind.corrupt(pixels, strength)) for strength in kind.strengths))
        for kind in KINDS
    ]
    return Robustness(len(labels), accuracy(pixels), losses)
