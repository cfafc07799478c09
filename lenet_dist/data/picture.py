"""A picture of a digit, made into an image like MNIST's.

As in LeCun et al. 1998, section III.A, the digit is fitted into 20x20 pixels with its proportions
kept, antialiased to grey, and placed in 28x28 with its centre of mass in the middle. The steps
before that deal with everyday pictures: any size, light or dark ink, photographs of paper.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from lenet_dist.exits import RequestError
from lenet_dist.files import is_special

Grey = npt.NDArray[np.float32]
"""[height, width]."""

_SIDE, _BOX = 28, 20
_CENTRE = 14.5
"""In pixels from the edge: the middle of pixel 14, from 0."""
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
"""Not all of Pillow's: PostScript would run another program, and the TIFF library prints."""
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, TypeError)
"""What Pillow's decoders raise on damaged bytes."""
_MOST_PIXELS = 50_000_000
_WORKING_SIDE = 256
"""Larger pictures are reduced to this first; the digit ends up 20 pixels large anyway."""
_LEAST_CONTRAST = 20
"""Contrast between paper and ink, in grey levels of 255, below which a picture counts as blank."""
_NOISE = 4.0
"""How far from the paper's grey still counts as paper, in standard deviations."""
_SPECK = 0.05
"""Anything smaller than this share of the largest stroke's area is dirt."""
_Y, _X = np.array([(0, 0, 0, 1, 1, 2), (0, 1, 2, 0, 1, 0)])
"""The powers of y and x in the terms of a quadratic surface: 1, x, x * x, y, x * y, y * y."""


def read(path: Path) -> npt.NDArray[np.uint8]:
    """The digit in a picture file, uint8 [28, 28], light on black.

    Raises RequestError naming the file if it is not a picture, is too large or is blank.
    """
    try:
        return as_mnist(_grey(path))
    except ValueError as error:
        raise RequestError(f"{path}: {error}") from None


def as_mnist(grey: Grey) -> npt.NDArray[np.uint8]:
    """The digit in a picture of grey levels from 0 to 255, uint8 [28, 28], light on black.

    Raises ValueError if nothing is drawn on it.
    """
    ink = _without_specks(_ink(grey))
    return _centred(_boxed(ink))


def _grey(path: Path) -> Grey:
    """Grey levels from 0 to 255 of a file's first picture, upright, nothing transparent."""
    if is_special(path):
        raise ValueError("a pipe or a device; name a file")
    try:
        with warnings.catch_warnings():
            # Such as those about damaged metadata: only the pixels count.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as picture:
                reduced = _reduced(_upright(picture))
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(f"it has more than {_MOST_PIXELS:,} pixels; save it smaller") from None
    except _DAMAGE as error:
        known = ", ".join(_FORMATS)
        reason = getattr(error, "strerror", None)
        raise ValueError(reason or f"not a picture ({known}), or a damaged one") from None
    return _flattened(reduced)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture, decoded and turned upright, unless its header claims an absurd size."""
    if picture.width * picture.height > _MOST_PIXELS:
        raise Image.DecompressionBombError
    # A JPEG can be decoded at an eighth, a quarter or half its size.
    picture.draft("L", (_WORKING_SIDE, _WORKING_SIDE))
    return ImageOps.exif_transpose(picture)


def _reduced(picture: Image.Image) -> Image.Image:
    """The picture in grey, with its opacity if it has one, its longer side at most 256."""
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture)
        # Scanners and cameras leave the upper bits of 16 empty.
        depth = next(bits for bits in (8, 10, 12, 14, 16) if levels.max() < 1 << bits)
        picture = Image.fromarray((levels >> depth - 8).astype(np.uint8))
    grey = picture.convert("LA" if picture.has_transparency_data else "L")
    grey.thumbnail((_WORKING_SIDE, _WORKING_SIDE), Image.Resampling.BOX)
    return grey


def _flattened(picture: Image.Image) -> Grey:
    """The picture's grey levels; what is transparent becomes paper."""
    levels = np.asarray(picture.getchannel("L"), np.float32)
    if picture.mode == "L":
        return levels
    opacity = np.asarray(picture.getchannel("A"), np.float32) / np.float32(255)
    return levels * opacity + np.float32(_paper_under(levels, opacity)) * (1 - opacity)


def _paper_under(levels: Grey, opacity: Grey) -> float:
    """The grey of the paper to put behind a picture's transparent places.

    Ink alone gets a paper that it stands out from. A whole sheet (with round corners, say) has
    paper of its own and gets more of the same.
    """
    if not opacity.any():
        return 255.0
    opaque = levels[opacity > 0.5]
    if opaque.size > levels.size / 2 and np.ptp(np.percentile(opaque, [1, 99])) > _LEAST_CONTRAST:
        return float(np.median(opaque))
    return 0.0 if np.average(levels, weights=opacity) > 127 else 255.0


def _ink(grey: Grey) -> Grey:
    """How much ink each pixel has, 0 on paper, 1 where it is as dark (or light) as the strokes."""
    rest = grey - _paper(grey)
    # Ink is what departs furthest from the paper, on whichever side that is.
    exact = rest.astype(np.float64)
    rest = rest if (exact * exact * exact).sum() > 0 else -rest
    noise = 1.4826 * float(np.median(np.abs(rest)))
    rest = np.maximum(rest - _NOISE * noise, 0)
    if rest.max() < _LEAST_CONTRAST:
        raise ValueError("nothing is drawn on it")
    stroke = float(np.percentile(rest[rest > rest.max() / 2], 50))
    return np.minimum(rest / stroke, 1)


def _paper(grey: Grey) -> Grey:
    """The paper's grey at every pixel: a smooth surface fitted to what is not ink.

    Light falls off across a photograph; a quadratic surface follows that, but not a stroke.
    """
    height, width = grey.shape
    y, x = (np.vander(np.linspace(-1, 1, side), 5, increasing=True) for side in grey.shape)
    border = np.ones_like(grey, bool)
    border[1 + height // 10 : -1 - height // 10, 1 + width // 10 : -1 - width // 10] = False
    # The first guess is flat: the border's median. Each fit leaves out what departs from the last.
    levels = grey.astype(np.float64)
    surface = np.full_like(levels, np.median(grey[border]))
    for _ in range(5):
        departure = np.abs(levels - surface)
        is_paper = departure <= max(3 * 1.4826 * float(np.median(departure)), 12.0)
        # The normal equations of least squares, from sums of y**i * x**j over the paper's pixels.
        sums = y.T @ is_paper @ x
        products = sums[_Y[:, None] + _Y, _X[:, None] + _X]
        moments = (y[:, :3].T @ (levels * is_paper) @ x[:, :3])[_Y, _X]
        coefficients = np.zeros((3, 3))
        # Not solve: a very small picture has too few pixels for six coefficients.
        coefficients[_Y, _X], *_ = np.linalg.lstsq(products, moments, rcond=1e-12)
        surface = y[:, :3] @ coefficients @ x[:, :3].T
    return surface.astype(np.float32)


def _without_specks(ink: Grey) -> Grey:
    """The ink of the strokes, without connected parts that are far smaller than the largest."""
    parts = _connected(ink > 0.3)
    areas = np.bincount(parts.reshape(-1))[1:]
    kept = np.concatenate([[False], areas >= _SPECK * areas.max()])
    strokes = kept[parts]
    # The grey rim belongs to its stroke.
    return np.where(_greatest_around(strokes), ink, 0)


def _connected(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The number (from 1) of the part that each pixel belongs to, 0 outside; diagonals connect."""
    numbers = np.arange(1, mask.size + 1)
    labels = numbers.reshape(mask.shape) * mask
    while True:
        spread = np.where(mask, _greatest_around(labels), 0)
        # A label is a pixel's number: take over that pixel's own new label at once, to end sooner.
        spread = np.append(0, spread)[spread]
        if (spread == labels).all():
            break
        labels = spread
    # A part's label is the number of its last pixel.
    return np.append(0, (labels.reshape(-1) == numbers).cumsum())[labels]


def _greatest_around(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The greatest of each pixel and its eight neighbours."""
    for axis in (0, 1):
        here, greatest = np.moveaxis(values, axis, 0), values.copy()
        there = np.moveaxis(greatest, axis, 0)
        np.maximum(there[1:], here[:-1], out=there[1:])
        np.maximum(there[:-1], here[1:], out=there[:-1])
        values = greatest
    return values


def _boxed(ink: Grey) -> Grey:
    """The digit alone, its longer side 20 pixels, with levels up to 255."""
    rows, columns = (np.flatnonzero((ink > 0.1).any(axis)) for axis in (1, 0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = _BOX / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    resized = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    levels = np.clip(np.asarray(resized), 0, None)
    # Resizing has made thin strokes faint.
    return (levels * (255 / levels.max())).astype(np.float32)


def _centred(box: Grey) -> npt.NDArray[np.uint8]:
    """28x28, with the centre of mass where MNIST has it, as far as the box stays inside."""
    image = np.zeros((_SIDE, _SIDE), np.uint8)
    starts = []
    for axis in (0, 1):
        masses = box.sum(1 - axis)
        centre = float((masses * (np.arange(len(masses)) + 0.5)).sum() / masses.sum())
        starts.append(min(max(round(_CENTRE - centre), 0), _SIDE - len(masses)))
    top, left = starts
    image[top : top + box.shape[0], left : left + box.shape[1]] = box.round()
    return image
