"""A picture of a digit, made into an image like MNIST's.

As in LeCun et al. 1998, section III.A, the digit is fitted into 20x20 pixels with its proportions
kept, antialiased to grey, and placed in 28x28 with its centre of mass in the middle. The steps
before that deal with everyday pictures: any size, light or dark ink, photographs of paper.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from scipy import ndimage

from lenet_dist.data.ruling import INKED, NEIGHBOURS, Box, Mask, around, extent, without_lines
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
_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
_MOST_PIXELS = 50_000_000
"""To decode. A JPEG is decoded at an eighth of its size or more."""
_MOST_PIXELS_OF_A_FILE = 300_000_000
_WORKING_SIDE = 320
"""Larger pictures are reduced to this first; the digit ends up 20 pixels large anyway."""
_LEAST_CONTRAST = 20
"""Contrast between paper and ink, in grey levels of 255, below which a picture counts as blank."""
_NOISE = 4.0
"""How far from the paper's grey still counts as paper, in standard deviations."""
_FILLED = 0.6
"""What is broader than this share of the picture's longer side is paper, whatever its grey."""
_THIN, _MNISTS_STROKE = 0.08, 0.1
"""Strokes thinner than this share of the digit's longer side are made as broad as MNIST's."""


def named(path: str) -> list[str]:
    """The pictures that a name stands for: those of a folder, in the order of their names."""
    if not Path(path).is_dir():
        return [path]
    inside = [entry for entry in Path(path).iterdir() if not entry.name.startswith(".")]
    pictures = sorted(str(entry) for entry in inside if entry.suffix.lower() in _SUFFIXES)
    if not pictures:
        raise RequestError(f"{path}: no pictures in this folder ({', '.join(_SUFFIXES)})")
    return pictures


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

    Raises ValueError if nothing is drawn on it, or more than one thing.
    """
    ink = _without_ring(_ink(grey))
    without = without_lines(ink)
    digit = _digit(without)
    if _is_line(ink, digit > INKED, (ink > INKED) & (without <= INKED)):
        raise ValueError("nothing is drawn on it but lines")
    return fitted(digit)


def fitted(ink: Grey) -> npt.NDArray[np.uint8]:
    """The ink of a digit, from 0 to 1, as MNIST has it: uint8 [28, 28]."""
    return _centred(_boxed(ink))


def _grey(path: Path) -> Grey:
    """Grey levels from 0 to 255 of a file's first picture, upright, nothing transparent."""
    if is_special(path):
        raise ValueError("a pipe or a device; name a file")
    try:
        with warnings.catch_warnings():
            # Such as those about damaged metadata: only the pixels count.
            warnings.simplefilter("ignore")
            with _large_pictures(), Image.open(path, formats=_FORMATS) as picture:
                reduced = _reduced(_upright(picture))
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(
            f"it has more than {_MOST_PIXELS:,} pixels; save it smaller, or as a JPEG"
        ) from None
    except _DAMAGE as error:
        known = ", ".join(_FORMATS)
        reason = getattr(error, "strerror", None)
        raise ValueError(reason or f"not a picture ({known}), or a damaged one") from None
    return _flattened(reduced)


@contextmanager
def _large_pictures() -> Iterator[None]:
    """Let Pillow open what is larger than its own limit, as cameras of 200 megapixels make."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS_OF_A_FILE // 2
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(picture: Image.Image) -> Image.Image:
    """The picture, decoded and turned upright, unless that takes too much memory."""
    # A JPEG can be decoded at an eighth, a quarter or half its size; a progressive one takes memory
    # for the whole nevertheless.
    if "progressive" not in picture.info or picture.width * picture.height <= _MOST_PIXELS:
        picture.draft("L", (_WORKING_SIDE, _WORKING_SIDE))
    if picture.width * picture.height > _MOST_PIXELS:
        raise Image.DecompressionBombError
    return ImageOps.exif_transpose(picture)


def _reduced(picture: Image.Image) -> Image.Image:
    """The picture in grey, with its opacity if it has one, its longer side at most 320."""
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
    dark = -grey if _is_light_on_dark(grey) else grey
    noise = 1.4826 * float(np.median(np.abs(grey - ndimage.median_filter(grey, 3))))
    # Where a strip along an edge is all there is, it is a stroke: a picture cropped to its 1.
    is_narrow = max(grey.shape) > 2 * min(grey.shape)
    for has_strips in (True, False) if is_narrow else (True,):
        rest = _paper(dark, has_strips) - dark
        rest = np.maximum(rest - np.percentile(rest, 20) - _NOISE * noise, 0)
        if rest.max() >= _LEAST_CONTRAST:
            stroke = float(np.median(rest[rest > rest.max() / 2]))
            return np.minimum(rest / stroke, 1)
    raise ValueError("nothing is drawn on it")


def _is_light_on_dark(grey: Grey) -> bool:
    """Whether ink is lighter than its paper.

    The paper's grey is the median around most pixels. Filled from the wrong side, strokes are taken
    for paper, and holes and gaps between them for ink.
    """
    image = Image.fromarray(grey)
    image.thumbnail((32, 32), Image.Resampling.BOX)
    small = np.asarray(image)
    # Near a corner of the sheet the nearest tell, inside a broad stroke all.
    medians = [np.full_like(small, np.median(small))] + [
        ndimage.median_filter(small, max(3, round(share * max(small.shape))), mode="nearest")
        for share in (0.25, 0.9)
    ]
    wrong = [
        np.min([np.abs(paper - median) for median in medians], 0).sum()
        for paper in (_paper(small, True), -_paper(-small, True))
    ]
    return bool(wrong[1] < wrong[0])


def _paper(grey: Grey, has_strips: bool) -> Grey:
    """The paper's grey at every pixel if its ink is darker.

    A closing fills what is darker than its surroundings and narrower than a window, and leaves
    edges where they are. `has_strips`: the picture goes on beyond its edges, so that a table or a
    dark strip along one of them is broad, and paper too.
    """
    window = max(3, round(_FILLED * max(grey.shape)))
    paper = ndimage.gaussian_filter(grey, max(grey.shape) / 400)
    for edge in (paper[0], paper[-1], paper[:, 0], paper[:, -1]) if has_strips else ():
        # A strip goes along all of it; what is dark along a part is a stroke cut off.
        filled = ndimage.grey_closing(edge, round(0.9 * len(edge)) + 1)
        edge[:] = np.where(filled - edge > np.ptp(paper) / 2, filled, edge)
    beyond = window if has_strips else 0
    paper = ndimage.grey_closing(np.pad(paper, beyond, mode="edge"), window)
    return paper[beyond : beyond + grey.shape[0], beyond : beyond + grey.shape[1]]


def _without_ring(ink: Grey) -> Grey:
    """The ink without a box or a ring around the digit, if it doesn't touch that."""
    labels, boxes, extents = _parts(ink)
    darkest = ndimage.maximum(ink, labels, np.arange(1, len(boxes) + 1))
    for outer in np.flatnonzero(extents > extents.max() / 2):
        hull = ndimage.binary_fill_holes(labels[boxes[outer]] == outer + 1)
        within = np.unique(labels[boxes[outer]][hull]) - 1
        # Squared paper, seen through a 0, is fainter.
        within = within[
            (within >= 0) & (within != outer) & (darkest[within] > 0.6 * darkest[outer])
        ]
        shares = extents[within] / extents[outer]
        if (shares > 0.3).any():
            ink = np.where(labels == outer + 1, 0, ink)
        elif extents[outer] > 0.97 * max(ink.shape):
            continue  # Squared paper; its lines are looked at next.
        elif (shares > 0.06).sum() > 1 or (shares > 0.03).sum() > 2:
            raise ValueError("it is no digit: there are several things in a ring")
    return ink


def _parts(ink: Grey) -> tuple[npt.NDArray[np.int32], list[Box], npt.NDArray[np.int64]]:
    """The number (from 1) of each pixel's part, and the parts' boxes and longer sides."""
    mask = ndimage.binary_dilation(ink > INKED, NEIGHBOURS)
    labels, _ = ndimage.label(mask, NEIGHBOURS)
    boxes = ndimage.find_objects(labels)
    if not boxes:
        raise ValueError("nothing is drawn on it")
    return labels, boxes, np.array([extent(box) for box in boxes])


def _digit(ink: Grey) -> Grey:
    """The ink of the digit alone, without dirt, remains of lines, and stamps."""
    labels, boxes, extents = _parts(ink)
    numbers = np.arange(1, len(boxes) + 1)
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    masses, darkest = ndimage.sum(ink, labels, numbers), ndimage.maximum(ink, labels, numbers)
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    kept = np.flatnonzero(extents > 0.08 * extents.max())
    # What is cut off by an edge is a neighbour, unless there is nothing else.
    whole = kept[~np.isin(kept + 1, edges)]
    if len(whole) and extents[whole].max() > 0.3 * extents.max():
        kept = whole
    main = kept[(masses * heights)[kept].argmax()]
    # Remains of lines are fainter than the pen, or thinner; a stamp may be darker.
    is_alike = np.abs(np.log(darkest / darkest[main])) < 0.5
    breadths = masses / extents
    kept = kept[is_alike[kept] & (breadths > 0.2 * breadths[main])[kept]]
    for other in kept:
        below, beside = (
            max(a.start - b.stop, b.start - a.stop)
            for a, b in zip(boxes[main], boxes[other], strict=True)
        )
        apart = max(below, beside)
        # The halves of a 3 need not meet.
        are_two = beside > 0 or below > 0.1 * extents[main]
        if other != main and are_two and heights[other] > 0.45 * heights[main]:
            raise ValueError("more than one digit is drawn on it; crop it to one")
        if apart > 0.2 * extents[main]:
            kept = kept[kept != other]
    digit = np.where(np.isin(labels, kept + 1), ink, 0)
    inside = digit[around(digit > INKED)]
    if min(inside.shape) > max(inside.shape) / 2 and inside.mean() > 0.8:
        raise ValueError("it is no digit: there are no strokes, but an area")
    # A darker stamp has made it faint.
    return np.minimum(digit / np.median(digit[digit > digit.max() / 2]), 1)


def _is_line(ink: Grey, stroke: Mask, lines: Mask) -> bool:
    """Whether a stroke is what is left of squared paper: as its lines, and little beside them."""
    if stroke.sum() > lines.sum() / 10:
        return False
    breadth, breadth_of_lines = (
        ndimage.distance_transform_edt(mask).max() for mask in (stroke, lines)
    )
    is_darker = np.median(ink[stroke]) > np.percentile(ink[lines], 90)
    return bool(breadth <= breadth_of_lines and not is_darker)


def _boxed(ink: Grey) -> Grey:
    """The digit alone, its longer side 20 pixels, with levels up to 255."""
    digit = _thickened(ink[around(ink > 0.1)])
    scale = _BOX / max(digit.shape)
    height, width = (max(1, round(side * scale)) for side in digit.shape)
    resized = Image.fromarray(digit).resize((width, height), Image.Resampling.BICUBIC)
    levels = np.clip(np.asarray(resized), 0, None)
    # Resizing has made thin strokes faint.
    return (levels * (255 / levels.max())).astype(np.float32)


def _thickened(digit: Grey) -> Grey:
    """The digit, its strokes as broad as MNIST's if they are thinner."""
    large = Image.fromarray(digit)
    side = 160
    scale = side / max(digit.shape)
    large = large.resize([max(1, round(s * scale)) for s in large.size], Image.Resampling.BICUBIC)
    ink = np.pad(np.asarray(large), side // 8)
    within = ndimage.distance_transform_edt(ink > 0.5)
    # Pixels of a stroke are a quarter of its breadth from its edge, on average.
    breadth = 4 * (within[within > 0].mean() - 0.5) if within.any() else 0
    if breadth > _THIN * side:
        return digit
    without = ndimage.distance_transform_edt(ink <= 0.5)
    grown = np.clip((_MNISTS_STROKE * side - breadth) / 2 + 1 - without, 0, 1)
    grown = grown.astype(np.float32)
    return grown[around(grown > 0.1)]


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
