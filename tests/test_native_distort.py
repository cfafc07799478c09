"""Augmentation by the compiled kernel: torch's, to the same bits for any company and threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lenet_dist.config import Augment
from lenet_dist.data import dataset
from lenet_dist.data.augment import Augmentation
from lenet_dist.kernels import native
from tests.test_native import VARIANTS, all_images, computing, same

AUGMENTS = [
    Augment(rotate=10, translate=0.08, scale=0.1),
    Augment(rotate=10, translate=0.04, scale=0.1, elastic=0.07),
    Augment(rotate=30, translate=0.2, scale=0.3, shear=0.3, elastic=0.1),
    Augment(rotate=0, translate=0, scale=0, shear=0.5),
]


def distorted(augment: Augment, count: int) -> Tensor:
    ranges = {key: value for key, value in vars(augment).items() if key != "fade"}
    images, ids = all_images().images[:count], torch.arange(count) * 7
    stream = Augmentation(augment, 5).stream(3)
    return native.distort(images, ids, stream=stream, strength=0.9, **ranges)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_the_distortion_is_torchs(augment: Augment) -> None:
    by_torch = Augmentation(augment, 5)
    pixels, ids = dataset.pixels(all_images().images[:500]), torch.arange(500) * 7
    expected = by_torch.distort(pixels, ids, by_torch.stream(3), 0.9)
    assert (distorted(augment, 500) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("augment", AUGMENTS)
def test_an_image_is_distorted_alike_beside_any_others(augment: Augment, variant: str) -> None:
    expected = distorted(augment, 100)
    for threads in (1, 2, 5):
        with computing(threads, variant):
            for count in (0, 1, 7, 17, 100):
                assert same(distorted(augment, count), expected[:count]), (count, threads)
