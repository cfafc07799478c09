"""The digit that a model sees in a picture, and how sure it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 0.9
"""A prediction with a probability below this is called unsure."""
_TURNS, _SLANTS = (-15.0, 0.0, 15.0), (-0.3, 0.0, 0.3)
"""Turns in degrees, and slants in pixels to the side for each pixel down, of the views."""


def probabilities(model: Callable[[Tensor], Tensor], temperature: float, image: Tensor) -> Tensor:
    """The probability of each digit, [10], for pixels [1, 1, 28, 28].

    It is the mean over the image turned and slanted a little. That leaves a digit what it is; a
    letter that is like a digit in one position alone loses its high probability.
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
    return (logits / temperature).softmax(1).mean(0)
