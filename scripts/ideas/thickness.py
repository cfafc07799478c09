"""Thicker and thinner strokes: each pixel moves up to halfway to the greatest or least of its
neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_dist import exits, train
from lenet_dist.data import counter
from lenet_dist.data.augment import Distortion
from lenet_dist.training import step

_FIRST_DRAW = 2**41
"""Past the counters of all other draws."""


class Thickness(Distortion):
    def distort(
        self, images: Tensor, ids: Tensor, stream: int | Tensor, strength: float | Tensor = 1.0
    ) -> Tensor:
        images = super().distort(images, ids, stream, strength)
        draws = counter.uniform(stream, ids + _FIRST_DRAW).to(images.dtype)
        change = (draws[:, None, None, None] - 0.5) * strength
        thick = F.max_pool2d(images, 3, stride=1, padding=1)
        thin = -F.max_pool2d(-images, 3, stride=1, padding=1)
        return images.lerp(torch.where(change > 0, thick, thin), change.abs())


def main(arguments: list[str]) -> None:
    step.Distortion = Thickness
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
