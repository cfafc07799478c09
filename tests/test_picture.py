"""Pictures as people have them, made into images as MNIST's are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw

from lenet_dist.config import Data
from lenet_dist.data import dataset, picture
from lenet_dist.data.dataset import Images, pixels
from lenet_dist.exits import RequestError
from lenet_dist.model import prediction, weights
from lenet_dist.model.prediction import SURE
from lenet_dist.predict import PRETRAINED
from tests import pictures
from tests.processes import ROOT
from tests.properties import PROPERTY

COUNT = 40
EACH = 16
"""Pictures of a kind; scripts/measure-pictures reads hundreds."""
Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def digits(mnist: Path) -> Images:
    """The first of the test images."""
    test = dataset.load(Data(root=str(mnist)), "test")
    return Images(test.images[:COUNT], test.labels[:COUNT])


def accuracy(images: list[Bytes], labels: torch.Tensor) -> float:
    """Of the package's own model."""
    model = weights.read(PRETRAINED).eval()
    with torch.no_grad():
        logits = model(pixels(torch.from_numpy(np.stack(images))))
    return (logits.argmax(1) == labels).double().mean().item()


def enlarged(digit: Bytes, side: int) -> Bytes:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def photograph(digit: Bytes, generator: np.random.Generator) -> Bytes:
    """Somewhere on a sheet of paper, in light that falls off, with the camera's noise."""
    height, width, side = 300, 400, 130
    light = np.linspace(-40, 30, width)[None] + np.linspace(-20, 25, height)[:, None]
    paper = 200.0 + light
    top, left = generator.integers(5, height - side - 5), generator.integers(5, width - side - 5)
    paper[top : top + side, left : left + side] -= enlarged(digit, side) / 255.0 * 130
    paper += generator.normal(0, 6, paper.shape)
    return paper.clip(0, 255).astype(np.uint8)


def test_mnists_own_images_go_through_nearly_unchanged(digits: Images) -> None:
    originals = digits.images.numpy()
    made = [picture.as_mnist(digit.astype(np.float32)) for digit in originals]
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(made, originals, strict=True)]
    assert np.median(differences) < 1, "of 255 grey levels"
    assert accuracy(made, digits.labels) >= accuracy(list(originals), digits.labels)


def save_small(digit: Bytes, file: Path, _: np.random.Generator) -> None:
    Image.fromarray(digit).save(file)


def save_large(digit: Bytes, file: Path, _: np.random.Generator) -> None:
    Image.fromarray(255 - enlarged(digit, 280)).save(file, compress_level=1)


def save_photograph(digit: Bytes, file: Path, generator: np.random.Generator) -> None:
    Image.fromarray(photograph(digit, generator)).save(file, compress_level=1)


def save_turned(digit: Bytes, file: Path, generator: np.random.Generator) -> None:
    """As a camera held upright saves it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # To be turned a quarter to the right when shown.
    turned = Image.fromarray(photograph(digit, generator)).rotate(90, expand=True)
    turned.save(file, exif=exif)


@pytest.mark.parametrize(
    ("save", "suffix"),
    [
        (save_small, "png"),
        (save_large, "png"),
        (save_photograph, "png"),
        (save_photograph, "jpg"),
        (save_turned, "jpg"),
    ],
)
def test_files_as_people_have_them_are_read_as_well_as_the_originals(
    digits: Images,
    tmp_path: Path,
    save: Callable[[Bytes, Path, np.random.Generator], None],
    suffix: str,
) -> None:
    generator, file = np.random.default_rng(0), tmp_path / f"digit.{suffix}"
    made = []
    for digit in digits.images.numpy():
        save(digit, file, generator)
        made.append(picture.read(file))
    originals = accuracy(list(digits.images.numpy()), digits.labels)
    assert accuracy(made, digits.labels) >= originals - 1 / COUNT


@pytest.fixture(scope="module")
def hand(digits: Images) -> pictures.Hand:
    """Draws digits; MNIST's among them are those that the model reads right as they are."""
    model = weights.read(PRETRAINED).eval()
    with torch.no_grad():
        right = model(pixels(digits.images)).argmax(1) == digits.labels
    return pictures.Hand(digits.images[right].numpy(), digits.labels[right].numpy())


PROBABILITIES_OF = prediction.by(PRETRAINED)


def outcome(content: bytes, file: Path) -> tuple[int, float]:
    """The digit in a picture and its probability, (-1, 0) if it is refused."""
    file.write_bytes(content)
    try:
        seen = torch.from_numpy(picture.read(file))
    except RequestError:
        return -1, 0.0
    probability, digit = PROBABILITIES_OF(pixels(seen[None])).max(0)
    return int(digit), float(probability)


@pytest.mark.parametrize("kind", pictures.DIGITS, ids=lambda kind: kind.__name__)
def test_each_kind_of_picture_is_read(
    kind: Callable[[np.random.Generator, pictures.Hand], tuple[pictures.Grey, int]],
    hand: pictures.Hand, tmp_path: Path,
) -> None:  # fmt: skip
    right = 0
    for number in range(EACH):
        rng = np.random.default_rng((1, number))
        grey, label = kind(rng, hand)
        digit, _ = outcome(pictures.encoded(rng, grey), tmp_path / "picture")
        right += digit == label
    assert right >= EACH - 1


@pytest.mark.parametrize("kind", pictures.NO_DIGITS, ids=lambda kind: kind.__name__)
def test_what_is_no_digit_is_refused_or_unsure(
    kind: Callable[[np.random.Generator, pictures.Hand], pictures.Grey],
    hand: pictures.Hand, tmp_path: Path,
) -> None:  # fmt: skip
    sure = 0
    for number in range(EACH):
        rng = np.random.default_rng((1, number))
        grey = kind(rng, hand)
        sure += outcome(pictures.encoded(rng, grey), tmp_path / "picture")[1] >= SURE
    assert sure <= 2


def test_the_letters_are_of_typefaces_that_the_doubt_has_not_learnt() -> None:
    learnt = (ROOT / "scripts/package-doubt").read_text(encoding="utf-8")
    assert not [face for face in pictures.TYPEFACES if f'"{face}"' in learnt]


def test_weights_without_a_doubt_beside_them_name_the_same_digits_about_as_surely(
    digits: Images, tmp_path: Path
) -> None:
    alone = prediction.by(Path(shutil.copy(PRETRAINED, tmp_path / "own.safetensors")))
    found = [
        torch.stack([of(pixels(image[None])) for image in digits.images]).max(1)
        for of in (alone, PROBABILITIES_OF)
    ]
    assert (found[0].indices == found[1].indices).all()
    unsure, unsure_by_doubt = ((of.values < SURE).sum() for of in found)
    assert unsure <= unsure_by_doubt <= unsure + 2


def test_a_photograph_of_108_megapixels_is_read_and_a_progressive_one_is_refused(
    tmp_path: Path,
) -> None:
    drawn = Image.fromarray(255 - enlarged(DIGITS[1], 1000)).resize((12_000, 9_000))
    drawn.save(tmp_path / "large.jpg")
    small = drawn.resize((400, 300), Image.Resampling.BOX)
    plain = picture.as_mnist(np.asarray(small, np.float32)).astype(int)
    assert np.abs(picture.read(tmp_path / "large.jpg") - plain).mean() < 8
    drawn.save(tmp_path / "progressive.jpg", progressive=True)
    with pytest.raises(RequestError, match="save it smaller, or as a JPEG"):
        picture.read(tmp_path / "progressive.jpg")


def test_pillows_own_limit_is_as_before(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("L", (28, 28)).save(tmp_path / "blank.png")
    with pytest.raises(RequestError):
        picture.read(tmp_path / "blank.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def _strokes(*lines: tuple[tuple[int, int], tuple[int, int]]) -> Bytes:
    """Straight lines, as a pen draws them."""
    image = Image.new("L", (28, 28))
    draw = ImageDraw.Draw(image)
    for start, end in lines:
        draw.line([start, end], fill=255, width=3)
    return np.asarray(image)


DIGITS = (
    _strokes(((14, 5), (14, 23))),
    _strokes(((7, 6), (20, 6)), ((20, 6), (12, 23))),
    _strokes(((9, 5), (8, 14)), ((8, 14), (19, 14)), ((16, 6), (16, 23))),
)


@PROPERTY
@given(
    digit=st.sampled_from(DIGITS), side=st.integers(60, 500), is_light=st.booleans(),
    paper=st.integers(0, 40), ink=st.integers(180, 255),
    margins=st.tuples(*[st.integers(0, 60)] * 4),
)  # fmt: skip
def test_size_polarity_contrast_and_place_leave_the_digit_as_it_is(
    digit: Bytes, side: int, is_light: bool, paper: int, ink: int, margins: tuple[int, ...]
) -> None:
    top, bottom, left, right = margins
    drawn = np.pad(enlarged(digit, side).astype(np.float32), ((top, bottom), (left, right)))
    drawn = paper + drawn / 255 * (ink - paper)
    reduced = Image.fromarray((drawn if is_light else 255 - drawn).astype(np.uint8))
    reduced.thumbnail((256, 256), Image.Resampling.BOX)
    made = picture.as_mnist(np.asarray(reduced, np.float32))
    plain = picture.as_mnist(enlarged(digit, 200).astype(np.float32))
    # A shift by a pixel, where rounding tips, is not another digit.
    shifts = [np.roll(made, shift, (0, 1)) for shift in np.ndindex(3, 3)]
    nearest = min(np.abs(np.roll(s, (-1, -1), (0, 1)).astype(int) - plain).mean() for s in shifts)
    assert nearest < 12, "of 255 grey levels"


def test_a_photographs_orientation_is_taken_from_its_exif(tmp_path: Path) -> None:
    upright, turned = tmp_path / "upright.jpg", tmp_path / "turned.jpg"
    image = Image.fromarray(255 - enlarged(DIGITS[1], 200))
    image.save(upright, quality=95)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # To be turned a quarter to the right when shown.
    image.rotate(90, expand=True).save(turned, quality=95, exif=exif)
    difference = picture.read(upright).astype(int) - picture.read(turned)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("grey", [0, 255])
def test_ink_on_nothing_is_read_whatever_its_colour(tmp_path: Path, grey: int) -> None:
    opacity = enlarged(DIGITS[2], 120)
    ink = np.full((120, 120, 3), grey, np.uint8)
    Image.fromarray(np.dstack([ink, opacity])).save(tmp_path / "clear.png")
    made = picture.read(tmp_path / "clear.png")
    plain = picture.as_mnist(opacity.astype(np.float32))
    assert np.abs(made.astype(int) - plain).mean() < 3


@pytest.mark.parametrize("is_dark", [False, True])
def test_transparent_corners_of_a_sheet_are_paper(tmp_path: Path, is_dark: bool) -> None:
    drawn = enlarged(DIGITS[2], 120) if is_dark else 255 - enlarged(DIGITS[2], 120)
    sheet = Image.fromarray(drawn).convert("LA")
    corners = Image.new("L", sheet.size)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 119, 119), radius=30, fill=255)
    sheet.putalpha(corners)
    sheet.save(tmp_path / "sheet.png")
    plain = picture.as_mnist(drawn.astype(np.float32))
    assert np.abs(picture.read(tmp_path / "sheet.png").astype(int) - plain).mean() < 3


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(255 - enlarged(digit, 100)) for digit in DIGITS]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    plain = picture.as_mnist(enlarged(DIGITS[0], 100).astype(np.float32))
    assert np.abs(picture.read(tmp_path / "moving.gif").astype(int) - plain).mean() < 3


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_read(tmp_path: Path, mode: str) -> None:
    drawn = 255 - enlarged(DIGITS[0], 100)
    image = Image.fromarray(drawn)
    if mode == "I;16":
        image = Image.fromarray(drawn.astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    file = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    image.save(file)
    plain = picture.as_mnist(drawn.astype(np.float32))
    assert np.abs(picture.read(file).astype(int) - plain).mean() < 8


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_of_16_bits_a_picture_may_use_the_lower_ones_alone(tmp_path: Path, bits: int) -> None:
    drawn = 255 - enlarged(DIGITS[0], 100)
    Image.fromarray(drawn.astype(np.uint16) << bits - 8).save(tmp_path / "picture.png")
    read = picture.read(tmp_path / "picture.png")
    assert (read == picture.as_mnist(drawn.astype(np.float32))).all()


def test_dirt_is_not_part_of_the_digit() -> None:
    drawn = enlarged(DIGITS[1], 200).astype(np.float32)
    dirty = drawn.copy()
    dirty[3:6, 190:193] = 255
    assert (picture.as_mnist(dirty) == picture.as_mnist(drawn)).all()


def test_a_stamp_that_is_darker_than_the_digit_leaves_it_as_it_is() -> None:
    sheet = np.full((300, 300), 200, np.float32)
    sheet[60:200, 80:220] -= enlarged(DIGITS[2], 140) * np.float32(80 / 255)
    plain = picture.as_mnist(sheet)
    stamped = Image.fromarray(sheet)
    ImageDraw.Draw(stamped).text((100, 260), "2026-11-30", 0, font_size=20)
    assert np.abs(picture.as_mnist(np.asarray(stamped)).astype(int) - plain).mean() < 20


def test_a_7_whose_bar_lies_along_the_pictures_edge_keeps_it() -> None:
    sheet = Image.new("F", (200, 300), 200)
    ImageDraw.Draw(sheet).line([(0, 6), (160, 6), (60, 270)], 60, 16, joint="curve")
    whole = picture.as_mnist(np.pad(sheet, 40, constant_values=200)).astype(int)
    assert np.abs(picture.as_mnist(np.asarray(sheet)) - whole).mean() < 8


def test_a_left_over_line_of_squared_paper_is_no_1(hand: pictures.Hand, tmp_path: Path) -> None:
    rng = np.random.default_rng((2, 156))
    sheet = pictures.encoded(rng, pictures.blank(rng, hand))
    assert outcome(sheet, tmp_path / "sheet") == (-1, 0)


def test_a_1_that_is_one_pixel_thin_and_upright_is_read() -> None:
    sheet = np.full((180, 180), 255, np.float32)
    sheet[40:140, 90] = 0
    made = picture.as_mnist(sheet)
    assert made[:, 12:16].sum() == made.sum() > 0


def test_paper_with_faint_crosses_seen_through_a_0_is_no_face() -> None:
    sheet = np.full((300, 300), 200, np.float32)
    for offset in range(-4, 5):
        sheet[20 + offset :: 40, 20::40] = sheet[20::40, 20 + offset :: 40] = 130
    drawn = Image.fromarray(sheet)
    ImageDraw.Draw(drawn).ellipse((70, 30, 230, 270), outline=30, width=24)
    picture.as_mnist(np.asarray(drawn))
