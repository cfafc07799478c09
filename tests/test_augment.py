"""The distortion: each image's own, by (seed, epoch, id), within the ranges asked for."""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lenet_dist.config import Augment
from lenet_dist.data.augment import Augmentation, magnitude
from tests.properties import PROPERTY

SIDE = 28
OFF = Augment(rotate=0, translate=0, scale=0, shear=0)
STRONG = Augment(rotate=30, translate=0.2, scale=0.3, shear=0.3, elastic=0.1)
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 1000)
IDS = st.lists(st.integers(0, 59_999), min_size=1, max_size=16, unique=True)


def pictures(ids: list[int]) -> Tensor:
    """Some picture for each id."""
    noise = [torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(i)) for i in ids]
    return torch.stack(noise)


def distorted(ids: list[int], seed: int = 0, epoch: int = 0) -> Tensor:
    return Augmentation(STRONG, seed)(pictures(ids), torch.tensor(ids), epoch)


def matrices(config: Augment, seed: int, ids: Tensor, epoch: int) -> Tensor:
    augmentation = Augmentation(config, seed)
    return augmentation.matrices(ids, augmentation.stream(epoch))


@PROPERTY
@given(seed=SEEDS, epoch=EPOCHS, ids=IDS)
def test_with_all_ranges_0_images_stay_as_they_are(seed: int, epoch: int, ids: list[int]) -> None:
    images = pictures(ids)
    assert Augmentation(OFF, seed).is_identity
    assert torch.equal(Augmentation(OFF, seed)(images, torch.tensor(ids), epoch), images)
    still = torch.eye(2, 3, dtype=torch.float64).expand(len(ids), 2, 3)
    assert torch.equal(matrices(OFF, seed, torch.tensor(ids), epoch), still)


@PROPERTY
@given(seed=SEEDS, epoch=EPOCHS, ids=IDS, data=st.data())
def test_an_image_is_distorted_alike_at_any_place_in_any_batch_of_that_size(
    seed: int, epoch: int, ids: list[int], data: st.DataObject
) -> None:
    together = dict(zip(ids, distorted(ids, seed, epoch), strict=True))
    shuffled = data.draw(st.permutations(ids))
    for sample, image in zip(shuffled, distorted(shuffled, seed, epoch), strict=True):
        assert torch.equal(image, together[sample])
    others = [60_000 + i for i in range(len(ids) - 1)]
    place = data.draw(st.integers(0, len(others)))
    among_others = distorted([*others[:place], ids[0], *others[place:]], seed, epoch)
    assert torch.equal(among_others[place], together[ids[0]])


def test_another_seed_epoch_or_id_is_another_distortion() -> None:
    ids = torch.tensor([5, 6])
    same = matrices(STRONG, 1, ids, 2)
    assert torch.equal(matrices(STRONG, 1, ids, 2), same)
    for seed, others, epoch in ((2, ids, 2), (1, ids, 3), (2, ids, 1), (1, ids + 2, 2)):
        assert not (matrices(STRONG, seed, others, epoch) == same).any()
    assert not (same[0] == same[1]).any()


@given(fade=st.floats(0.01, 1), epochs=st.integers(1, 300))
def test_distortion_is_full_until_it_fades_evenly_to_none_in_the_last_epoch(
    fade: float, epochs: int
) -> None:
    magnitudes = [magnitude(Augment(fade=fade), epoch, epochs) for epoch in range(epochs)]
    before = [s for epoch, s in enumerate(magnitudes) if epoch + 1 <= (1 - fade) * epochs - 1e-6]
    assert magnitudes[-1] == 0 and all(s == 1 for s in before)
    falls = [a - b for a, b in itertools.pairwise(magnitudes)]
    assert all(-1e-9 <= fall <= 1 / (fade * epochs) + 1e-9 for fall in falls)


@PROPERTY
@given(seed=SEEDS, epoch=EPOCHS, ids=IDS, share=st.floats(0, 1))
def test_a_magnitude_narrows_all_alike(seed: int, epoch: int, ids: list[int], share: float) -> None:
    config = {name: share * full for name, full in vars(STRONG).items()}
    narrowed = Augmentation(Augment(**config), seed)(pictures(ids), torch.tensor(ids), epoch)
    distortion = Augmentation(STRONG, seed)
    weak = distortion.distort(
        pictures(ids), torch.tensor(ids), distortion.stream(epoch), torch.tensor(share).double()
    )
    torch.testing.assert_close(weak, narrowed, rtol=0, atol=1e-4)


def drawn(config: Augment, seed: int, epoch: int, ids: Tensor) -> dict[str, Tensor]:
    """What was drawn for each image, read off its matrix."""
    m = matrices(config, seed, ids, epoch)
    size = 1 / torch.hypot(m[:, 0, 0], m[:, 1, 0])
    angle = torch.atan2(m[:, 1, 0], m[:, 0, 0])
    # Turned back and sized back, the second column is (shear, 1).
    shear = size * (angle.cos() * m[:, 0, 1] + angle.sin() * m[:, 1, 1])
    upright = size * (angle.cos() * m[:, 1, 1] - angle.sin() * m[:, 0, 1])
    torch.testing.assert_close(upright, torch.ones_like(upright))
    shifts = m[:, :, 2] / 2  # An image is 2 wide.
    return {
        "rotate": angle.rad2deg(), "right": shifts[:, 0], "down": shifts[:, 1],
        "scale": size - 1, "shear": shear,
    }  # fmt: skip


def test_what_is_drawn_fills_its_range_evenly_and_apart_from_the_others() -> None:
    values = drawn(STRONG, 0, 0, torch.arange(20_000))
    limits = {"rotate": 30, "right": 0.2, "down": 0.2, "scale": 0.3, "shear": 0.3}
    table = torch.stack([values[name] / limit for name, limit in limits.items()])
    assert table.abs().max() <= 1 + 1e-9
    # Of a uniform number in [-1, 1] the mean is 0 and the deviation 1/sqrt(3).
    torch.testing.assert_close(table.mean(1), torch.zeros(5).double(), rtol=0, atol=0.02)
    expected = torch.full((5,), 1 / math.sqrt(3)).double()
    torch.testing.assert_close(table.std(1), expected, rtol=0, atol=0.01)
    torch.testing.assert_close(torch.corrcoef(table), torch.eye(5).double(), rtol=0, atol=0.04)
    # No image has a number of another's.
    some = table[:, :1000]
    assert (some * 1e9).round().unique().numel() == some.numel()


@PROPERTY
@given(seed=SEEDS, epoch=EPOCHS, ids=IDS)
def test_pixels_are_taken_from_where_torchs_are(seed: int, epoch: int, ids: list[int]) -> None:
    config = dataclasses.replace(STRONG, elastic=0)
    images, numbers = pictures(ids), torch.tensor(ids)
    theta = matrices(config, seed, numbers, epoch).float()
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, align_corners=False)
    found = Augmentation(config, seed)(images, numbers, epoch)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def elastic_shifts(elastic: float, seed: int, epoch: int, ids: Tensor) -> Tensor:
    """Where each pixel is taken from, less where it is [n, 2, h, w]: right and down, in pixels."""
    right = torch.arange(SIDE).float().expand(SIDE, SIDE)
    ramps = torch.stack([right, right.T])[:, None]
    config = Augment(rotate=0, translate=0, scale=0, shear=0, elastic=elastic)
    distort = Augmentation(config, seed)
    # Between pixels of a ramp a number is its own place.
    return torch.cat(
        [distort(ramp.expand(len(ids), 1, SIDE, SIDE), ids, epoch) - ramp for ramp in ramps], 1
    )


@PROPERTY
@given(elastic=st.floats(0.01, 0.06), seed=SEEDS, epoch=EPOCHS)
def test_an_elastic_distortion_shifts_within_its_range_and_neighbours_alike(
    elastic: float, seed: int, epoch: int
) -> None:
    shifts = elastic_shifts(elastic, seed, epoch, torch.arange(64))
    at_knots = shifts[:, :, 3::7, 3::7]
    assert at_knots.abs().max() <= elastic * SIDE + 1e-3
    inside = shifts[:, :, 3:25, 3:25]
    for along in (2, 3):
        # From one knot to the next, seven pixels on, the shift changes by at most twice the range;
        # a bicubic curve is at most 1.5 times as steep, and overshoots across it by 1.375.
        assert inside.diff(dim=along).abs().max() <= 2 * elastic * SIDE / 7 * 1.5 * 1.375 + 1e-3
