"""Images made harder to read than those a model was trained on, by known amounts.

The kinds are the most common ones of Mu and Gilmer, "MNIST-C: a robustness benchmark for computer
vision" (2019), each at four strengths. Every random number is a function of the image's index, so
every machine makes the same images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_dist.data import counter

Corrupt = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Kind:
    """One way of making pixels [n, 1, h, w] in [0, 1] harder to read, and how strong it can be."""

    name: str
    strengths: tuple[float, float, float, float]
    """From weak to strong, in units of `unit`."""
    unit: str
    corrupt: Corrupt
    """Gives the corrupted pixels at a strength: the same shape, in [0, 1]."""


def _shifted(pixels: Tensor, distance: float) -> Tensor:
    """Shifted by this many pixels in a random direction."""
    angle = _uniform("shift", len(pixels)) * 2 * math.pi
    side = pixels.shape[-1]
    # An image is 2 wide in these coordinates.
    right, down = (2 * distance / side * part for part in (angle.cos(), angle.sin()))
    return _moved(pixels, torch.ones(len(pixels)), torch.zeros(len(pixels)), right, down)


def _turned(pixels: Tensor, degrees: float) -> Tensor:
    angle = math.radians(degrees) * _sign("rotation", len(pixels))
    still = torch.zeros(len(pixels))
    return _moved(pixels, angle.cos(), angle.sin(), still, still)


def _resized(pixels: Tensor, factor: float) -> Tensor:
    still = torch.zeros(len(pixels))
    return _moved(pixels, torch.full((len(pixels),), 1 / factor), still, still, still)


def _noisy(pixels: Tensor, deviation: float) -> Tensor:
    """With Gaussian noise, independent for each pixel."""
    uniform = _uniform("noise", pixels.numel()).clamp(min=1e-7).view_as(pixels)
    return (pixels + deviation * torch.special.ndtri(uniform)).clamp(0, 1)


def _speckled(pixels: Tensor, share: float) -> Tensor:
    """With this share of the pixels turned black or white."""
    draws = _uniform("specks", pixels.numel()).view_as(pixels)
    return torch.where(draws < share, (draws < share / 2).to(pixels.dtype), pixels)


def _blurred(pixels: Tensor, deviation: float) -> Tensor:
    """Blurred by a Gaussian with this standard deviation in pixels."""
    reach = math.ceil(3 * deviation)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / deviation) ** 2) / 2)
    kernel = kernel / kernel.sum()
    rows = F.conv2d(pixels, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1), padding=(reach, 0))


def _faded(pixels: Tensor, contrast: float) -> Tensor:
    """With this much of the contrast left: pixels move towards their image's mean."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return mean + contrast * (pixels - mean)


def _brightened(pixels: Tensor, amount: float) -> Tensor:
    return (pixels + amount).clamp(max=1)


KINDS = (
    Kind("shift", (2, 4, 6, 8), "pixels", _shifted),
    Kind("rotation", (15, 30, 45, 60), "degrees", _turned),
    Kind("size", (0.8, 0.7, 0.6, 0.5), "of the size", _resized),
    Kind("noise", (0.1, 0.2, 0.3, 0.4), "standard deviation", _noisy),
    Kind("specks", (0.05, 0.1, 0.2, 0.3), "of all pixels", _speckled),
    Kind("blur", (0.5, 1, 1.5, 2), "pixels", _blurred),
    Kind("contrast", (0.5, 0.3, 0.2, 0.1), "left", _faded),
    Kind("brightness", (0.1, 0.2, 0.3, 0.4), "added", _brightened),
)


def _moved(pixels: Tensor, cosine: Tensor, sine: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Sample each pixel where (cosine, -sine, right; sine, cosine, down) points; black outside."""
    rows = [cosine, -sine, right, sine, cosine, down]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels.shape), False)
    return F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)


def _uniform(name: str, count: int) -> Tensor:
    return counter.uniform(counter.stream("corruption", name), torch.arange(count)).float()


def _sign(name: str, count: int) -> Tensor:
    return (_uniform(name, count) < 0.5).float() * 2 - 1
