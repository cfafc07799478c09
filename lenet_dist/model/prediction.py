"""The digit that a model sees in a picture, and how sure it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lenet_dist.model import doubt, weights
from lenet_dist.model.inference import forward_of

Forward = Callable[[Tensor], Tensor]
"""Of pixels [n, 1, 28, 28]."""

SURE = 0.9
"""A prediction with a probability below this is called unsure."""
_TURNS, _SLANTS = (-15.0, 0.0, 15.0), (-0.3, 0.0, 0.3)
"""Turns in degrees, and slants in pixels to the side for each pixel down, of the views."""


def by(weights_file: Path) -> Forward:
    """The function that gives an image's probabilities by a weights file, and the doubt beside it.

    Raises RequestError naming the file if it does not hold LeNet-5's weights.
    """
    model, temperature = forward_of(weights.read(weights_file)), weights.temperature(weights_file)
    beside = doubt.beside(weights_file)
    return lambda image: _probabilities(model, temperature, beside, image)


def _probabilities(
    model: Forward, temperature: float, doubt: Forward | None, image: Tensor
) -> Tensor:
    """The probability of each digit, [10], for pixels [1, 1, 28, 28].

    It is the mean over the image turned and slanted a little. That leaves a digit what it is; a
    letter that is like a digit in one position alone loses its high probability. As far as it is
    in doubt that this is a digit at all, each is equally likely.
    """
    matrices = []
    for turn, slant in itertools.product(map(math.radians, _TURNS), _SLANTS):
        cosine, sine = math.cos(turn), math.sin(turn)
        first_row, second_row = [cosine, cosine * slant - sine, 0], [sine, sine * slant + cosine, 0]
        matrices.append([first_row, second_row])
    views = image.expand(len(matrices), -1, -1, -1)
    with torch.no_grad():
        grid = F.affine_grid(torch.tensor(matrices), list(views.shape), align_corners=False)
        logits = model(F.grid_sample(views, grid, align_corners=False)).double()
        none = 0.0 if doubt is None else doubt(image).item()
    digits = (logits / temperature).softmax(1).mean(0)
    return digits * (1 - none) + none / len(digits)
