"""Augmentation of a batch, each image by random numbers of its own."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_dist.config import Augment
from lenet_dist.data import counter
from lenet_dist.exits import RequestError

_RANGES = ("rotate", "translate", "scale", "shear", "elastic")
_DRAWS = 5
"""Random numbers per image: rotation, shift right, shift down, scale, shear."""
_KNOTS = 4
"""Random shifts of an elastic distortion along a side, seven pixels apart: about as smooth as those
that Simard, Steinkraus and Platt (ICDAR 2003, section 2) blur with a Gaussian of 4 pixels."""
_ELASTIC_DRAWS = 2 * _KNOTS**2
_FIRST_ELASTIC = 2**40
"""Elastic draws use counters past all others, so the other draws are the same with or without."""


class Augmentation:
    """Rotation, shift, scale, shear and elastic distortion, by (seed, epoch, sample id)."""

    def __init__(self, config: Augment, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.is_identity = not any(getattr(config, name) for name in _RANGES)

    def __call__(self, images: Tensor, ids: Tensor, epoch: int) -> Tensor:
        """Distort `images` [n, 1, h, w] of samples `ids` [n] as in `epoch` (from 0), in full."""
        return self.distort(images, ids, self.stream(epoch))

    def stream(self, epoch: int) -> int:
        """The seed of the random numbers of `epoch` (from 0): 64 bits, as a signed number."""
        return counter.signed(counter.stream(self.seed, "augment", epoch))

    def distort(
        self,
        images: Tensor,
        ids: Tensor,
        stream: int | Tensor,
        magnitude: float | Tensor = 1.0,
    ) -> Tensor:
        """Distort `images` [n, 1, h, w] of samples `ids` [n] by an epoch's `stream`.

        All ranges are multiplied by `magnitude` in [0, 1]. It and the stream are numbers, or
        scalars on the images' device.
        """
        if self.is_identity:
            return images
        height, width = images.shape[2:]
        places = _places(self.matrices(ids, stream, magnitude).to(images.dtype), height, width)
        if self.config.elastic:
            _add_smooth(places, self._knots(ids, stream, magnitude).to(images.dtype))
        grid = places.permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, mode="bilinear", align_corners=False)

    def matrices(
        self, ids: Tensor, stream: int | Tensor, magnitude: float | Tensor = 1.0
    ) -> Tensor:
        """Sampling matrices [n, 2, 3], float64: output coordinates to input, both in [-1, 1]."""
        counters = ids[:, None] * _DRAWS + torch.arange(_DRAWS, device=ids.device)
        draws = (counter.uniform(stream, counters) * 2 - 1) * magnitude
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

    def _knots(self, ids: Tensor, stream: int | Tensor, magnitude: float | Tensor) -> Tensor:
        """Shifts (right, down) of a coarse grid's points [n, 2, knots, knots], float64."""
        counters = ids[:, None] * _ELASTIC_DRAWS + torch.arange(_ELASTIC_DRAWS, device=ids.device)
        draws = (counter.uniform(stream, counters + _FIRST_ELASTIC) * 2 - 1) * magnitude
        # An image is 2 wide in these coordinates, so a fraction of its side counts twice.
        return (2 * self.config.elastic * draws).view(-1, 2, _KNOTS, _KNOTS)


def check(config: Augment, inputs: Tensor) -> None:
    """Raise RequestError if the config asks to distort inputs that are no images [n, c, h, w]."""
    if inputs.dim() != 4 and not Augmentation(config, 0).is_identity:
        off = " ".join(f"augment.{name}=0" for name in _RANGES if getattr(config, name))
        raise RequestError(
            f"augment: only images [n, channels, height, width] can be distorted, and these samples"
            f" are {['n', *inputs.shape[1:]]}; write {off}".replace("'n'", "n")
        )


def magnitude(config: Augment, epoch: int, epochs: int) -> float:
    """The magnitude of augmentation in `epoch` (from 0) of `epochs`: from 1 down to 0 in the last.

    Test images are not distorted, so training ends on undistorted images. Without ``fade`` the
    magnitude is 1 throughout.
    """
    if not config.fade:
        return 1.0
    return min(1.0, (epochs - 1 - epoch) / (config.fade * epochs))


def _places(matrices: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel comes from (right, down) [n, 2, h, w], as F.affine_grid gives it.

    F.affine_grid computes a matrix product per image and takes ten times as long. Adding a column's
    part to a row's part gives the same, whatever the number of images.
    """
    across, down, shift = matrices.unsqueeze(3).unbind(2)
    kind = matrices.dtype, matrices.device
    by_column = across * _centers(width, *kind)
    by_row = down * _centers(height, *kind) + shift
    return by_column[:, :, None, :] + by_row[:, :, :, None]


def _add_smooth(places: Tensor, knots: Tensor) -> None:
    """Add to `places` [n, c, h, w] the bicubic surface through `knots` [n, c, k, k], in place.

    F.interpolate makes the same surface but takes ten times as long.
    """
    kind = knots.shape[3], knots.dtype, knots.device
    down, across = (_bicubic(side, *kind) for side in places.shape[2:])
    columns = torch.zeros_like(places[:, :, :, : knots.shape[3]])
    for row, weights in zip(knots.unbind(2), down.T, strict=True):
        columns.addcmul_(row[:, :, None, :], weights[:, None])
    for column, weights in zip(columns.unbind(3), across.T, strict=True):
        places.addcmul_(column[:, :, :, None], weights)


@functools.lru_cache(8)
def _bicubic(side: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weight of each of `count` knots at each pixel of a side [side, count]. Always the same
    tensor: a GPU would spend as long on making it as on using it."""
    each = torch.eye(count, device=device, dtype=dtype)[None, None]
    return F.interpolate(each, (side, count), mode="bicubic")[0, 0]


@functools.lru_cache(8)
def _centers(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The centres of `count` adjacent pixels that span -1 to 1. Always the same tensor."""
    return (torch.arange(count, device=device, dtype=dtype) * 2 + 1) / count - 1
