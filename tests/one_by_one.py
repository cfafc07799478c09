"""The job on a machine whose kernels depend on the number of images, as far as it can tell: what
test_same_bits starts."""

from __future__ import annotations

from lenet_dist import train
from lenet_dist.train import gradient_choice


def main(arguments: list[str]) -> None:
    """Train as asked, with the check at the start failing."""
    gradient_choice.is_bit_equal = lambda *_: False  # type: ignore[assignment]
    train.main(arguments)
