"""How a start of a run ended, as the training process tells it to the trackers' process."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SECONDS_AT_THE_END = 27.0
"""Longest that trackers may take once a run is complete."""

SECONDS_AT_A_STOP = 9.0
"""The same if it is stopped or has failed: a preempted job has little time left."""

_SIDE = 28


class Mistake(NamedTuple):
    """An image [28, 28] uint8, its label, and the model's prediction with its probability."""

    pixels: NDArray[np.uint8]
    label: int
    prediction: int
    probability: float


@dataclass(frozen=True)
class Pictures:
    """The pictures of a complete run."""

    mistakes: list[Mistake]
    """In the test set, the worst first."""
    augmented: list[NDArray[np.uint8]]
    """Training images as the first epoch saw them."""


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended: `completed`, `stopped`, `failed`, `lost` if it ended without a
    word, or `incomplete` if nobody saw it end."""

    kind: str
    reason: str = ""
    pictures: Pictures | None = None
    """Of a completed run, if the training process has made them."""

    @property
    def seconds(self) -> float:
        """Longest that trackers may take after it."""
        return SECONDS_AT_THE_END if self.kind == "completed" else SECONDS_AT_A_STOP

    def as_line(self) -> str:
        """All of it on one line."""
        told: dict[str, object] = {"kind": self.kind, "reason": self.reason}
        if self.pictures:
            images = [*(m.pixels for m in self.pictures.mistakes), *self.pictures.augmented]
            pixels = b"".join(image.tobytes() for image in images)
            told["mistakes"] = [mistake[1:] for mistake in self.pictures.mistakes]
            told["pixels"] = base64.b64encode(zlib.compress(pixels)).decode()
        return json.dumps(told)

    @classmethod
    def of_line(cls, line: str) -> Ending:
        """The ending that `as_line` has written."""
        told = json.loads(line)
        pictures = None
        if "pixels" in told:
            pixels = zlib.decompress(base64.b64decode(told["pixels"]))
            images = list(np.frombuffer(pixels, np.uint8).reshape(-1, _SIDE, _SIDE))
            mistakes = [Mistake(images.pop(0), *of_it) for of_it in told["mistakes"]]
            pictures = Pictures(mistakes, images)
        return cls(told["kind"], told["reason"], pictures)
