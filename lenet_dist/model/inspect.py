"""What a model has learned and where it fails, as tensors for others to draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lenet_dist.model.lenet5 import LeNet5


@dataclass(frozen=True)
class Mistake:
    """An image that the model takes for another class."""

    sample_id: int
    """Its index, from 0, among the images that were judged."""
    label: int
    prediction: int
    probability: float
    """The probability that the model gives its prediction, in [0, 1]."""
    image: Tensor
    """The image as it was given, on the CPU: uint8 [28, 28] for images of the data set."""


def worst_mistakes(logits: Tensor, labels: Tensor, images: Tensor, count: int) -> list[Mistake]:
    """The `count` mistakes that the model is most certain of, most certain first.

    Logits [n, 10], labels [n] and images [n, ...] are of the same n samples. If there are fewer
    mistakes than `count`, it gives all of them.
    """
    probabilities, predictions = logits.double().softmax(1).max(1)
    wrong = (predictions != labels).nonzero().flatten()
    # Stable, so that equal probabilities come in the samples' order on any machine.
    order = probabilities[wrong].sort(descending=True, stable=True).indices[:count]
    return [
        Mistake(
            sample_id=sample_id,
            label=int(labels[sample_id]),
            prediction=int(predictions[sample_id]),
            probability=float(probabilities[sample_id]),
            image=images[sample_id].cpu(),
        )
        for sample_id in wrong[order].tolist()
    ]


def filters(model: LeNet5) -> Tensor:
    """C1's six filters [6, 5, 5]."""
    return model.C1.weight.detach()[:, 0]


@torch.no_grad()
def feature_maps(model: LeNet5, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of S2 [6, 14, 14] and S4 [16, 5, 5] for one image [1, 28, 28] in [0, 1], after
    ReLU."""
    s2, s4 = model.feature_maps(pixels[None])
    return s2[0], s4[0]


@torch.no_grad()
def convolved(model: LeNet5, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The maps of C1 [6, 28, 28] and C3 [16, 10, 10] for one image [1, 28, 28] in [0, 1], after
    ReLU, before the max pool."""
    s2, _ = model.feature_maps(pixels[None])
    c1, c3 = model.C1(model.standardised(pixels[None])), model.C3(s2)
    return c1[0].relu(), c3[0].relu()
