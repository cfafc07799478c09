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
        return self.distort(images, ids, self.stream(epoch))

    def stream(self, epoch: int) -> int:
        """What stands for `epoch` (from 0) in its random numbers: 64 bits, as a signed number."""
        return counter.signed(counter.stream(self.seed, "augment", epoch))

    def distort(self, images: Tensor, ids: Tensor, stream: int | Tensor) -> Tensor:
        """The same by the epoch's `stream`: a number, or a scalar on the images' device."""
        if self.is_identity:
            return images
        grid = _grid(self._matrices(ids, stream).to(images.dtype), *images.shape[2:])
        return F.grid_sample(images, grid, mode="bilinear", align_corners=False)

    def matrices(self, ids: Tensor, epoch: int) -> Tensor:
        """Sampling matrices [n, 2, 3], float64: output coordinates to input, both in [-1, 1]."""
        return self._matrices(ids, self.stream(epoch))

    def _matrices(self, ids: Tensor, stream: int | Tensor) -> Tensor:
        counters = ids[:, None] * _DRAWS + torch.arange(_DRAWS, device=ids.device)
        draws = counter.uniform(stream, counters) * 2 - 1
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


def _grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from [n, h, w, 2], as F.affine_grid gives it.

    That makes a matrix product for each image, and takes ten times as long. A column's part and a
    row's part added are the same, and do not depend on how many images there are.
    """
    across, down, shift = matrices.unsqueeze(3).unbind(2)
    by_column = across * _centers(width, matrices)
    by_row = down * _centers(height, matrices) + shift
    return (by_column[:, :, None, :] + by_row[:, :, :, None]).permute(0, 2, 3, 1)


def _centers(count: int, like: Tensor) -> Tensor:
    """The middles of `count` pixels that lie side by side from -1 to 1."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) * 2 + 1) / count - 1
