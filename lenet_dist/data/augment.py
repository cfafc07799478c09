"""Affine distortion of a batch, each image's by its own counters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_dist.config import Augment
from lenet_dist.data import counter

_DRAWS = 5
"""Random numbers an image: rotation, shift right, shift down, scale, shear."""


class Affine:
    """Rotation, shift, scale and shear of images, a function of (seed, epoch, sample id)."""

    def __init__(self, config: Augment, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.is_identity = not any((config.rotate, config.translate, config.scale, config.shear))

    def __call__(self, images: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Distort `images` [n, 1, h, w] of samples `ids` [n] as `epoch` (from 0) sees them."""
        if self.is_identity:
            return images
        matrices = self.matrices(ids, epoch).to(images.dtype)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", align_corners=False)

    def matrices(self, ids: Tensor, epoch: int) -> Tensor:
        """Sampling matrices [n, 2, 3], float64: output coordinates to input, both in [-1, 1]."""
        counters = ids[:, None] * _DRAWS + torch.arange(_DRAWS, device=ids.device)
        draws = counter.uniform(counter.stream(self.seed, "augment", epoch), counters) * 2 - 1
        angle, right, down, scale, shear = draws.unbind(1)
        angle = angle * math.radians(self.config.rotate)
        size = 1 + scale * self.config.scale
        shear = shear * self.config.shear
        cosine, sine = angle.cos() / size, angle.sin() / size
        # An image is 2 wide in these coordinates, so a fraction of its side counts twice.
        shift = 2 * self.config.translate
        first_row = [cosine, cosine * shear - sine, right * shift]
        second_row = [sine, sine * shear + cosine, down * shift]
        return torch.stack(first_row + second_row, 1).view(-1, 2, 3)
