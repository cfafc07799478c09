"""Random erasing (Zhong et al., 2020): a rectangle of 4 to 9 pixels a side is set to 0 in a quarter
of the images, in fewer while distortion fades."""

from __future__ import annotations

import torch
from torch import Tensor

from lenet_dist import exits, train
from lenet_dist.data import counter
from lenet_dist.data.augment import Distortion
from lenet_dist.training import step

_DRAWS = 5
"""Random numbers per image: whether, height, width, top, left."""
_FIRST_DRAW = 2**41
"""Past the counters of all other draws."""


class Erasing(Distortion):
    def distort(
        self, images: Tensor, ids: Tensor, stream: int | Tensor, strength: float | Tensor = 1.0
    ) -> Tensor:
        images = super().distort(images, ids, stream, strength)
        counters = ids[:, None] * _DRAWS + torch.arange(_DRAWS, device=ids.device)
        draws = counter.uniform(stream, counters + _FIRST_DRAW)
        is_erased = draws[:, 0] < 0.25 * strength
        rows, columns = (
            _inside(side, draws[:, 1 + axis], draws[:, 3 + axis])
            for axis, side in enumerate(images.shape[2:])
        )
        rectangle = rows[:, :, None] & columns[:, None, :] & is_erased[:, None, None]
        return images.masked_fill(rectangle[:, None], 0)


def _inside(side: int, length: Tensor, place: Tensor) -> Tensor:
    """Whether each pixel of a side is in the interval [n, side] that two draws [n] choose."""
    length = (4 + 6 * length).floor()
    start = (place * (side - length + 1)).floor()
    pixels = torch.arange(side, device=length.device)
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])


def main(arguments: list[str]) -> None:
    step.Distortion = Erasing
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
