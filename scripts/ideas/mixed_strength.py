"""Each image is distorted by a strength of its own, half to one and a half times the recipe's."""

from __future__ import annotations

from torch import Tensor

from lenet_dist import exits, train
from lenet_dist.data import counter
from lenet_dist.data.augment import Distortion
from lenet_dist.training import step

_FIRST_DRAW = 2**41
"""Past the counters of all other draws."""


class MixedStrength(Distortion):
    def distort(
        self, images: Tensor, ids: Tensor, stream: int | Tensor, strength: float | Tensor = 1.0
    ) -> Tensor:
        draws = counter.uniform(stream, ids[:, None] + _FIRST_DRAW)
        return super().distort(images, ids, stream, strength * (0.5 + draws))


def main(arguments: list[str]) -> None:
    step.Distortion = MixedStrength
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
