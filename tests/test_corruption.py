"""Images made harder to read, by the amounts that are said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lenet_dist.data import dataset
from lenet_dist.data.corruption import KINDS, Kind

BY_NAME = {kind.name: kind for kind in KINDS}
SIDE = 28


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return dataset.pixels(dataset.synthetic("test").images[:200])


def block(count: int) -> Tensor:
    """A bright block of 8 by 8 in the middle of black."""
    images = torch.zeros(count, 1, SIDE, SIDE)
    images[:, :, 10:18, 10:18] = 1
    return images


def made(name: str, strength: float, pixels: Tensor) -> Tensor:
    return BY_NAME[name].corrupt(pixels, strength)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pixels_stay_pixels_and_change_most_at_the_strongest(kind: Kind, digits: Tensor) -> None:
    changes = []
    for strength in kind.strengths:
        corrupted = kind.corrupt(digits, strength)
        assert (corrupted.shape, corrupted.dtype) == (digits.shape, digits.dtype)
        assert corrupted.min() >= 0 and corrupted.max() <= 1
        changes.append(float((corrupted - digits).square().mean()))
    assert changes[-1] > changes[0] > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_image_is_spoilt_alike_however_many_come_after_it(kind: Kind, digits: Tensor) -> None:
    few, many = (kind.corrupt(digits[:n], kind.strengths[2]) for n in (3, 200))
    torch.testing.assert_close(few, many[:3], rtol=0, atol=1e-6)


def test_a_shift_is_as_far_as_it_says_and_in_all_directions() -> None:
    places = torch.arange(SIDE) - (SIDE - 1) / 2
    after = made("shift", 4, block(500))
    mass = after.sum(dim=(1, 2, 3))
    right = (after.sum(dim=(1, 2)) * places).sum(1) / mass
    down = (after.sum(dim=(1, 3)) * places).sum(1) / mass
    torch.testing.assert_close(torch.hypot(right, down), torch.full((500,), 4.0), rtol=0, atol=0.01)
    quadrants = {(bool(r > 0), bool(d > 0)) for r, d in zip(right, down, strict=True)}
    assert len(quadrants) == 4


def test_a_rotation_by_90_degrees_is_a_quarter_turn_either_way(digits: Tensor) -> None:
    after = made("rotation", 90, digits)
    left, right = (digits.rot90(turns, (2, 3)) for turns in (1, -1))
    nearer = [
        min(float((image - turned).abs().max()) for turned in pair)
        for image, *pair in zip(after, left, right, strict=True)
    ]
    assert max(nearer) < 1e-3
    assert {bool((a - b).abs().max() < 1e-3) for a, b in zip(after, left, strict=True)} == {
        True,
        False,
    }


def test_a_size_is_that_part_of_the_side() -> None:
    area = made("size", 0.5, block(1)).sum() / block(1).sum()
    assert float(area) == pytest.approx(0.25, abs=0.02)


def test_noise_has_the_deviation_that_it_says() -> None:
    grey = torch.full((50, 1, SIDE, SIDE), 0.5)
    noise = made("noise", 0.1, grey) - grey
    assert float(noise.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(noise.mean())) < 0.002


def test_specks_are_half_black_half_white_and_as_many_as_it_says() -> None:
    grey = torch.full((50, 1, SIDE, SIDE), 0.5)
    specks = made("specks", 0.2, grey)
    for colour in (0, 1):
        assert float((specks == colour).double().mean()) == pytest.approx(0.1, rel=0.05)
    assert float((specks == 0.5).double().mean()) == pytest.approx(0.8, rel=0.02)


def test_a_blur_keeps_the_ink_and_spreads_it_by_its_deviation() -> None:
    dot = torch.zeros(1, 1, SIDE, SIDE)
    dot[..., 14, 14] = 1
    after = made("blur", 1.5, dot)
    assert float(after.sum()) == pytest.approx(1, abs=1e-3)
    variance = (after.sum(dim=(0, 1, 2)) * (torch.arange(SIDE) - 14) ** 2).sum()
    assert float(variance.sqrt()) == pytest.approx(1.5, rel=0.03)


def test_contrast_and_brightness_are_what_is_left_and_what_is_added(digits: Tensor) -> None:
    after = made("contrast", 0.2, digits)
    torch.testing.assert_close(after.std(dim=(1, 2, 3)), 0.2 * digits.std(dim=(1, 2, 3)))
    torch.testing.assert_close(after.mean(dim=(1, 2, 3)), digits.mean(dim=(1, 2, 3)))
    assert torch.equal(made("brightness", 0.3, digits), (digits + 0.3).clamp(max=1))
