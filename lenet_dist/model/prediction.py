"""The digit that a model sees in a picture, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

SURE = 0.9
"""A prediction with a probability below this is called unsure."""


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
