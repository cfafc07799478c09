"""The digit that a model sees in a picture, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Forward = Callable[[Tensor], Tensor]
    """Of pixels [n, 1, 28, 28]."""

SURE = 0.9
"""A prediction with a probability below this is called unsure."""
_TURNS, _SLANTS = (-15.0, 0.0, 15.0), (-0.3, 0.0, 0.3)
"""Degrees, and pixels to the side for each pixel down."""


def by(weights_file: Path) -> Forward:
    """The function that gives an image's probabilities by a weights file, and the doubt beside it.

    Raises RequestError naming the file if it does not hold LeNet-5's weights.
    """
    from lenet_dist.model import doubt, weights
    from lenet_dist.model.inference import forward_of

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
    import torch
    import torch.nn.functional as F

    matrices = []
    for turn in map(math.radians, _TURNS):
        cosine, sine = math.cos(turn), math.sin(turn)
        for slant in _SLANTS:
            row = [cosine, cosine * slant - sine, 0.0], [sine, sine * slant + cosine, 0.0]
            matrices.append(row)
    views = image.expand(len(matrices), -1, -1, -1)
    with torch.no_grad():
        grid = F.affine_grid(torch.tensor(matrices), list(views.shape), align_corners=False)
        logits = model(F.grid_sample(views, grid, align_corners=False)).double()
        none = 0.0 if doubt is None else doubt(image).item()
    digits = (logits / temperature).softmax(1).mean(0)
    return digits * (1 - none) + none / len(digits)


@dataclass(frozen=True)
class Prediction:
    """A picture's file, and the probability of each digit."""

    image: str
    """As it was named."""
    probabilities: list[float]

    @property
    def ranked(self) -> list[int]:
        """The digits, the likeliest first."""
        digits = range(len(self.probabilities))
        return sorted(digits, key=lambda digit: -self.probabilities[digit])

    def fields(self) -> dict[str, object]:
        """For JSON."""
        digit = self.ranked[0]
        return {
            "image": self.image,
            "digit": digit,
            "probability": self.probabilities[digit],
            "probabilities": self.probabilities,
        }

    def __str__(self) -> str:
        first, second, *_ = self.ranked
        line = f"{self.image}: {first} ({self.probabilities[first]:.1%})"
        if self.probabilities[first] < SURE:
            line += f", unsure: {first} or {second} ({self.probabilities[second]:.1%})"
        return line
