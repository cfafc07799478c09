"""Pictures as people make them, drawn by kind: digits in ink on paper, and what is no digit.

Everything follows from a NumPy generator, so a seed names a picture. A drawing is a mask of ink,
[height, width] from 0 to 1, cut to what is drawn; a scene puts it on paper and photographs it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from tests.strokes import BAR, LETTERS, SERIF, STYLES, Bytes, Grey, cut, drawn, enlarged

TYPEFACES = (
    "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "STIXGeneralItalic", "cmr10", "cmtt10",
)  # fmt: skip


class Hand:
    """Draws digits: half of them MNIST's, half in the styles above."""

    def __init__(self, images: Bytes, labels: npt.NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels

    def digit(self, rng: Generator, height: float) -> tuple[Grey, int]:
        """A digit of about this height, and which one."""
        if rng.random() < 0.5:
            chosen = rng.integers(len(self.images))
            return enlarged(self.images[chosen], height), int(self.labels[chosen])
        digit = int(rng.integers(10))
        pen = height * rng.uniform(0.05, 0.14)
        return drawn(rng, rng.choice(STYLES[digit]), height, pen), digit


def _on_paper(ink: Grey, shape: tuple[int, int], top: float, left: float) -> Grey:
    """The drawing at its place on a sheet; what lies outside is cut off."""
    sheet = np.zeros(shape, np.float32)
    image = Image.fromarray(sheet)
    image.paste(Image.fromarray(ink), (round(left), round(top)))
    return np.asarray(image)


def _anywhere(rng: Generator, ink: Grey, shape: tuple[int, int]) -> Grey:
    top, left = (
        rng.uniform(0.03, 0.97) * max(0, a - b) for a, b in zip(shape, ink.shape, strict=True)
    )
    return _on_paper(ink, shape, top, left)


def _inked(rng: Generator, *layers: tuple[Grey, float], paper: float = 0, ink: float = 0) -> Grey:
    """Grey levels of layers of ink on paper: each a mask, and its darkness beside the pen's."""
    paper, ink = paper or rng.uniform(170, 255), ink or rng.uniform(0, 110)
    grey = np.full(layers[0][0].shape, paper, np.float32)
    for mask, strength in layers:
        grey = grey * (1 - mask * strength) + ink * mask * strength
    return grey


def _photographed(rng: Generator, grey: Grey, blur: float = 0) -> Grey:
    """In light that falls off, not quite sharp, with the camera's noise."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape)
    light = 1 + rng.uniform(-0.15, 0.15) * x[None] + rng.uniform(-0.15, 0.15) * y[:, None]
    blur = blur or rng.uniform(0.3, 0.004 * max(grey.shape) + 0.4)
    noise = rng.normal(0, rng.uniform(1, 6), grey.shape)
    return (ndimage.gaussian_filter(grey, blur) * light * 0.92 + noise).astype(np.float32)


def _often_photographed(rng: Generator, grey: Grey) -> Grey:
    return _photographed(rng, grey) if rng.random() < 0.5 else grey


def _shape(rng: Generator, low: int = 150, high: int = 600) -> tuple[int, int]:
    height = rng.integers(low, high)
    return int(height), int(height * rng.uniform(0.75, 1.33))


def _lines(
    rng: Generator, shape: tuple[int, int], cell: float, width: float, turn: float, across: bool
) -> Grey:
    """Squared paper, or lined paper, turned by some degrees."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    mask = np.zeros(shape, np.float32)
    for along in (x * c + y * s, y * c - x * s) if across else (y * c - x * s,):
        distance = np.abs((along + rng.uniform(0, cell)) % cell - cell / 2)
        mask = np.maximum(mask, np.clip(width / 2 - distance + 0.5, 0, 1))
    return mask


def plain(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """On paper, or on a screen in light ink; small and large."""
    shape = _shape(rng, 40, 900)
    ink, digit = hand.digit(rng, min(shape) * rng.uniform(0.3, 0.8))
    grey = _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1)))
    return (255 - grey if rng.random() < 0.3 else grey), digit


def squared(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """On squared or lined paper, its lines fainter than the ink or as dark."""
    shape = _shape(rng)
    height = min(shape) * rng.uniform(0.35, 0.75)
    ink, digit = hand.digit(rng, height)
    cell = height / rng.choice([0.8, 1, 2, 3, 4])
    width = rng.uniform(1, max(1.5, height / 60))
    lines = _lines(rng, shape, cell, width, rng.normal(0, 1.5), rng.random() < 0.75)
    grey = _inked(rng, (lines, rng.uniform(0.25, 0.9)), (_anywhere(rng, ink, shape), 1))
    return _often_photographed(rng, grey), digit


def _frame(rng: Generator, shape: tuple[int, int], box: list[float], width: float) -> Grey:
    image = Image.new("L", (shape[1] * 2, shape[0] * 2))
    draw = ImageDraw.Draw(image)
    corners = [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3])]
    turned = [(2 * x + rng.normal(0, 2), 2 * y + rng.normal(0, 2)) for x, y in corners]
    draw.line([*turned, turned[0]], 255, max(1, round(2 * width)), joint="curve")
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX), np.float32) / 255


def boxed(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """In a box whose lines are in view, all or some; the digit may touch one."""
    height = rng.uniform(60, 350)
    ink, digit = hand.digit(rng, height)
    gaps = rng.uniform(-0.02, 0.5, 4) * height  # left, top, right, bottom
    outside = rng.uniform(-0.08, 0.4, 4) * height
    box_h, box_w = ink.shape[0] + gaps[1] + gaps[3], ink.shape[1] + gaps[0] + gaps[2]
    shape = (round(box_h + outside[1] + outside[3]), round(box_w + outside[0] + outside[2]))
    left, top = outside[0], outside[1]
    frame = _frame(
        rng, shape, [left, top, left + box_w, top + box_h], max(1, height * rng.uniform(0.01, 0.06))
    )
    on_paper = _on_paper(ink, shape, top + gaps[1], left + gaps[0])
    grey = _inked(rng, (frame, rng.uniform(0.4, 1)), (on_paper, 1))
    return _often_photographed(rng, grey), digit


def tight(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """Cropped to the digit, or a little into it; blurred blue ink on grey paper."""
    height = rng.uniform(30, 300)
    ink, digit = hand.digit(rng, height)
    cut = [round(height * rng.uniform(-0.06, 0.03)) for _ in range(4)]
    sheet = np.pad(ink, [(max(0, -cut[0]), max(0, -cut[1])), (max(0, -cut[2]), max(0, -cut[3]))])
    sheet = sheet[max(0, cut[0]) : sheet.shape[0] - max(0, cut[1]), :]
    if sheet.shape[1] > 0.3 * height:  # A bar is not cut into.
        sheet = sheet[:, max(0, cut[2]) : sheet.shape[1] - max(0, cut[3])]
    grey = _inked(rng, (sheet, 1), paper=rng.uniform(140, 210), ink=rng.uniform(60, 110))
    return _photographed(rng, grey, blur=height * rng.uniform(0.005, 0.025)), digit


def thin(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """By a pen one pixel thin, on 200 to 300 pixels."""
    side, digit = rng.integers(200, 300), int(rng.integers(10))
    ink = drawn(rng, rng.choice(STYLES[digit]), side * rng.uniform(0.5, 0.85), rng.uniform(1, 1.6))
    return _inked(rng, (_anywhere(rng, ink, (side, side)), 1)), digit


def serif_1(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """A 1 with flag and base, in 28x28."""
    ink = drawn(rng, SERIF, rng.uniform(14, 22), rng.uniform(1, 2.5), 0.05)
    return 255 * _anywhere(rng, ink, (28, 28)), 1


def slanted_1(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """A 1 that leans, with or without a flag."""
    shape, lean = _shape(rng), rng.uniform(0.2, 0.7)
    height = min(shape) * rng.uniform(0.4, 0.8)
    style = rng.choice([BAR, ".3,.2 .5,0 .5,1"])
    points = style if rng.random() < 0.5 else BAR
    ink = drawn(rng, points, height, height * rng.uniform(0.04, 0.12), 0.0)
    image = Image.fromarray(np.pad(ink, ((2, 2), (round(height),) * 2)))
    leaning = image.transform(
        image.size, Image.Transform.AFFINE, (1, lean, -lean * image.height / 2, 0, 1, 0),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    ink = cut(np.asarray(leaning))
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1))), 1


def closed_8(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """An 8 of two closed loops, some of them small."""
    shape = _shape(rng)
    height = min(shape) * rng.uniform(0.4, 0.8)
    ink = drawn(rng, STYLES[8][0], height, height * rng.uniform(0.05, 0.17))
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1))), 8


def sheets_edge(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """A photograph of a sheet that ends in view, on a darker or lighter table."""
    shape = _shape(rng, 300, 800)
    ink, digit = hand.digit(rng, min(shape) * rng.uniform(0.2, 0.45))
    grey = _inked(rng, (_anywhere(rng, ink, tuple(round(s * 0.7) for s in shape)), 1))
    table = rng.uniform(20, 140) if rng.random() < 0.8 else 255
    top, left = (round(s * rng.uniform(0.02, 0.28)) for s in shape)
    top, left = (
        (top, left) if rng.random() < 0.5 else ((top, 0) if rng.random() < 0.5 else (0, left))
    )
    whole = np.full(shape, table, np.float32)
    rest = grey[: shape[0] - top, : shape[1] - left]
    paper = float(grey[0, 0])
    whole[top:, left:] = paper
    whole[top : top + rest.shape[0], left : left + rest.shape[1]] = rest
    turned = Image.fromarray(whole).rotate(
        rng.normal(0, 3), Image.Resampling.BILINEAR, fillcolor=table if top and left else None
    ) if top and left else Image.fromarray(whole)  # fmt: skip
    # A far corner that is turned into view is cut off, as a photographer would.
    trim = 0.95 if top and left else 1
    whole = np.asarray(turned)[: round(shape[0] * trim), : round(shape[1] * trim)]
    return _photographed(rng, whole), digit


def dark_strip(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """A dark strip along one edge or two: a table, a scanner's lid, a thumb's width of shadow."""
    shape = _shape(rng)
    ink, digit = hand.digit(rng, min(shape) * rng.uniform(0.3, 0.65))
    grey = _inked(rng, (_anywhere(rng, np.pad(ink, round(0.16 * min(shape))), shape), 1))
    for edge in rng.choice(4, rng.integers(1, 3), replace=False):
        width = round(rng.uniform(0.02, 0.14) * min(shape))
        slope = rng.normal(0, 0.012)
        turned = np.rot90(grey, edge).copy()
        x = np.arange(turned.shape[1])
        until = width + slope * (x - x.mean())
        turned[np.arange(turned.shape[0])[:, None] < until[None]] = rng.uniform(5, 90)
        grey = np.rot90(turned, -edge)
    return _often_photographed(rng, np.ascontiguousarray(grey)), digit


def time_stamp(rng: Generator, hand: Hand) -> tuple[Grey, int]:
    """A photograph with the date and the time in a corner."""
    shape = _shape(rng, 250, 800)
    ink, digit = hand.digit(rng, min(shape) * rng.uniform(0.3, 0.6))
    pad = round(0.12 * shape[0])
    sheet = _anywhere(rng, np.pad(ink, ((pad // 3, pad), (0, 0))), shape)
    grey = _photographed(rng, _inked(rng, (sheet, 1)))
    size = shape[0] * rng.uniform(0.035, 0.07)
    text = f"20{rng.integers(10, 30)}-{rng.integers(1, 13):02}-{rng.integers(1, 29):02}"
    image = Image.fromarray(grey)
    place = (shape[1] * rng.uniform(0.02, 0.5), shape[0] - 1.5 * size)
    ImageDraw.Draw(image).text(
        place, text, fill=float(rng.choice([0, 60, 255])), font=ImageFont.load_default(size)
    )
    return np.asarray(image), digit


def two_digits(rng: Generator, hand: Hand) -> Grey:
    """Two digits beside each other."""
    shape = _shape(rng, 150, 500)
    height = min(shape) * rng.uniform(0.3, 0.5)
    inks = [hand.digit(rng, height * rng.uniform(0.85, 1.15))[0] for _ in range(2)]
    gap = np.zeros((1, round(height * rng.uniform(0.08, 0.6))), np.float32)
    tallest = max(i.shape[0] for i in inks)
    parts = [np.pad(i, ((tallest - i.shape[0], 0), (0, 0))) for i in (inks[0], gap, inks[1])]
    ink = np.concatenate(parts, 1)
    shape = (shape[0], max(shape[1], ink.shape[1] + 20))
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1)))


def letter(rng: Generator, hand: Hand) -> Grey:
    """A letter, printed."""
    shape, fonts = _shape(rng), Path(matplotlib.get_data_path()) / "fonts/ttf"
    font = ImageFont.truetype(str(fonts / f"{rng.choice(TYPEFACES)}.ttf"), min(shape) * 0.6)
    image = Image.new("L", (shape[1], shape[0]))
    ImageDraw.Draw(image).text(
        (shape[1] * 0.2, shape[0] * 0.1), rng.choice([*LETTERS, "x"]), 255, font
    )
    ink = cut(np.asarray(image, np.float32) / 255)
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1)))


def handwritten_letter(rng: Generator, hand: Hand) -> Grey:
    """A letter, drawn as the digits are."""
    shape = _shape(rng)
    height = min(shape) * rng.uniform(0.3, 0.8)
    letter = LETTERS[rng.choice(list(LETTERS))]
    ink = drawn(rng, letter, height, height * rng.uniform(0.05, 0.14))
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1)))


def empty_box(rng: Generator, hand: Hand) -> Grey:
    """A box with nothing in it."""
    shape = _shape(rng)
    height, width = (s * rng.uniform(0.4, 0.9) for s in shape)
    top, left = (shape[0] - height) / 2, (shape[1] - width) / 2
    box = [left, top, left + width, top + height]
    frame = _frame(rng, shape, box, min(shape) * rng.uniform(0.006, 0.04))
    return _often_photographed(rng, _inked(rng, (frame, 1)))


def face(rng: Generator, hand: Hand) -> Grey:
    """A circle with two eyes and a mouth."""
    shape = _shape(rng)
    height = min(shape) * rng.uniform(0.4, 0.8)
    eye = rng.uniform(0.32, 0.42)
    style = (
        f"{STYLES[0][0]};.35,{eye} .36,{eye + 0.03};.65,{eye} .66,{eye + 0.03};"
        "~.32,.68 .42,.77 .58,.77 .68,.68"
    )
    ink = drawn(rng, style, height, height * rng.uniform(0.02, 0.06), 0.0)
    return _often_photographed(rng, _inked(rng, (_anywhere(rng, ink, shape), 1)))


def blank(rng: Generator, hand: Hand) -> Grey:
    """Paper with nothing on it: plain, squared or lined."""
    shape = _shape(rng)
    lines = _lines(rng, shape, rng.uniform(20, 80), 1.5, rng.normal(0, 2), rng.random() < 0.5)
    return _photographed(rng, _inked(rng, (lines, rng.choice([0, 0.3, 0.8]))))


DIGITS: tuple[Callable[[Generator, Hand], tuple[Grey, int]], ...] = (
    plain, squared, boxed, tight, thin, serif_1, slanted_1, closed_8, sheets_edge, dark_strip,
    time_stamp,
)  # fmt: skip
NO_DIGITS: tuple[Callable[[Generator, Hand], Grey], ...] = (
    two_digits, letter, handwritten_letter, empty_box, face, blank,
)  # fmt: skip


def encoded(rng: Generator, grey: Grey) -> bytes:
    """As a PNG, or as a JPEG in colour."""
    image, content = Image.fromarray(grey.clip(0, 255).astype(np.uint8)), io.BytesIO()
    if rng.random() < 0.5:
        image.save(content, "PNG", compress_level=1)
    else:
        image.convert("RGB").save(content, "JPEG", quality=int(rng.integers(40, 95)))
    return content.getvalue()
