"""The doubt whether an image shows a digit at all: a small network's, learnt beside the weights.

LeNet-5 knows ten classes and gives one of them to a letter too. `scripts/package-doubt` trains this
network to tell MNIST's digits from letters, scrawls and lines.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import nn

from lenet_dist.model.weights import refusals

_MAPS = 8


class Doubt(nn.Sequential):
    """Probabilities [n] that pixels [n, 1, 28, 28] in [0, 1], made as MNIST's, show no digit."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, _MAPS, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(_MAPS, 2 * _MAPS, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(2 * _MAPS, 2 * _MAPS, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * _MAPS * 16, 1), nn.Flatten(0), nn.Sigmoid(),
        )  # fmt: skip


def beside(weights_file: Path) -> Doubt | None:
    """The network in `doubt.safetensors` beside a weights file, None if there is none.

    Raises RequestError naming the file if it holds something else.
    """
    file = weights_file.with_name("doubt.safetensors")
    if not file.exists():
        return None
    doubt = Doubt()
    with refusals(file, "the doubt's weights"):
        doubt.load_state_dict(safetensors.torch.load_file(file))
    return doubt.requires_grad_(False)
