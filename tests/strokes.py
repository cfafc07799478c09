"""Digits in ink: drawn in several hands' styles, or enlarged from MNIST's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw

Grey = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Point = tuple[float, float]

# Strokes of hand styles in a unit square, x to the right and y down; "~" is drawn as a curve.
STYLES: dict[int, tuple[str, ...]] = {
    0: (
        "~.5,0 .2,.1 .05,.5 .2,.9 .5,1 .8,.9 .95,.5 .8,.1 .5,0",
        "~.62,.04 .3,.06 .05,.45 .2,.9 .5,1 .85,.8 .92,.35 .7,.05 .5,.03",
    ),
    1: (".5,0 .5,1", ".2,.25 .55,0 .55,1", ".55,0 .5,1", ".22,.24 .5,0 .5,1;.15,1 .85,1"),
    2: (
        "~.08,.25 .3,.03 .65,.02 .88,.25 .7,.55 .1,.98;.1,.98 .95,.97",
        "~.1,.2 .4,0 .8,.12 .75,.45 .35,.85 .1,.97 .05,.85 .2,.8 .5,.93 .75,1 .95,.9",
    ),
    3: (
        "~.1,.1 .45,0 .8,.1 .8,.35 .4,.48;~.4,.48 .85,.55 .92,.8 .6,1 .3,.99 .05,.87",
        ".12,.02 .85,.02 .42,.42;~.42,.42 .8,.48 .9,.75 .6,.98 .3,1 .06,.88",
    ),
    4: (
        ".2,.05 .08,.6 .92,.6;.7,.15 .68,1",
        ".15,0 .1,.52 .9,.5;.72,.02 .7,1",
        ".65,0 .05,.68 .95,.68;.66,0 .66,1",
    ),
    5: (
        "~.18,.45 .5,.38 .85,.55 .85,.82 .5,1 .08,.92;.2,.02 .18,.45;.2,.02 .88,.02",
        ".85,.02 .25,.03 .18,.45;~.18,.45 .6,.4 .9,.65 .75,.92 .4,1 .08,.9",
    ),
    6: (
        "~.75,.02 .35,.25 .1,.65 .25,.97 .6,1 .85,.8 .7,.55 .35,.55 .12,.75",
        "~.55,0 .2,.4 .08,.75 .35,1 .75,.95 .85,.7 .55,.53 .2,.68",
    ),
    7: (
        ".08,.03 .92,.03 .4,1",
        ".08,.03 .92,.03 .45,1;.25,.5 .8,.5",
        ".08,.15 .1,.03 .9,.03;~.9,.03 .6,.4 .45,1",
    ),
    8: (
        "~.5,0 .2,.08 .2,.35 .5,.47 .82,.35 .8,.08 .5,0;"
        "~.5,.47 .12,.6 .1,.88 .5,1 .9,.88 .88,.6 .5,.47",
        "~.8,.1 .45,0 .18,.2 .45,.45 .85,.72 .75,.95 .4,1 .12,.85 .2,.65 .6,.42 .85,.22 .78,.08",
    ),
    9: (
        "~.85,.2 .6,0 .25,.05 .1,.3 .35,.52 .7,.45 .87,.15;.87,.1 .8,1",
        "~.85,.2 .55,0 .2,.08 .12,.35 .4,.5 .8,.3 .87,.1;~.87,.1 .85,.6 .65,.95 .3,1 .15,.9",
    ),
}  # fmt: skip
LETTERS = {
    "A": ".05,1 .5,0 .95,1;.22,.62 .78,.62",
    "C": "~.9,.15 .5,0 .1,.3 .08,.7 .45,1 .92,.85",
    "E": ".9,0 .1,0 .1,1 .9,1;.1,.5 .75,.5",
    "F": ".9,0 .1,0 .1,1;.1,.48 .75,.48",
    "H": ".1,0 .1,1;.9,0 .9,1;.1,.5 .9,.5",
    "K": ".1,0 .1,1;.85,0 .12,.55;.35,.4 .9,1",
    "M": ".05,1 .1,0 .5,.6 .9,0 .95,1",
    "N": ".1,1 .1,0 .9,1 .9,0",
    "P": ".12,0 .12,1;~.12,.02 .7,.02 .9,.25 .7,.5 .12,.5",
    "R": ".12,0 .12,1;~.12,.02 .7,.02 .9,.25 .7,.5 .12,.5;.45,.5 .92,1",
    "T": ".02,0 .98,0;.5,0 .5,1",
    "U": "~.1,0 .1,.6 .3,.97 .7,.97 .9,.6 .9,0",
    "V": ".05,0 .5,1 .95,0",
    "W": ".02,0 .25,1 .5,.35 .75,1 .98,0",
    "X": ".05,0 .95,1;.95,0 .05,1",
    "Y": ".05,0 .5,.5;.95,0 .5,.5 .5,1",
    "a": "~.85,.3 .5,.02 .1,.3 .1,.75 .45,1 .85,.65;.87,.05 .87,.85 1,1",
    "d": "~.8,.5 .45,.38 .1,.65 .2,.95 .55,.97 .82,.75;.84,0 .84,1",
    "e": "~.1,.52 .88,.5 .7,.1 .35,.05 .08,.5 .25,.95 .6,1 .92,.8",
    "h": ".12,0 .12,1;~.12,.65 .45,.42 .8,.55 .82,1",
    "k": ".12,0 .12,1;.8,.4 .14,.68;.35,.6 .85,1",
    "m": ".05,.05 .05,1;~.05,.35 .28,.05 .5,.35 .5,1;~.5,.35 .74,.05 .95,.35 .95,1",
    "n": ".1,.05 .1,1;~.1,.4 .5,.02 .88,.35 .9,1",
    "r": ".2,.02 .2,1;~.2,.4 .45,.08 .85,.1",
    "t": ".5,0 .5,.75;~.5,.75 .6,.98 .85,.92;.1,.3 .9,.3",
    "u": "~.1,.02 .1,.7 .35,1 .75,.8 .88,.5;.9,.02 .9,1",
    "w": "~.02,.05 .15,.9 .3,.95 .5,.4 .7,.95 .85,.9 .98,.05",
}
"""No digit's form as well, as O, I, S and Z are."""
BAR, FLAG, SERIF = STYLES[1][0], STYLES[1][1], STYLES[1][3]


def _smooth(points: list[Point]) -> list[Point]:
    """Catmull-Rom's curve through the points."""
    p = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, 12)[:, None]
    parts = [
        a * (-t + 2 * t**2 - t**3) / 2 + b * (2 - 5 * t**2 + 3 * t**3) / 2
        + c * (t + 4 * t**2 - 3 * t**3) / 2 + d * (t**3 - t**2) / 2
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]  # fmt: skip
    return [tuple(point) for point in np.concatenate(parts)]


def drawn(rng: Generator, style: str, height: float, pen: float, slant: float = 0.15) -> Grey:
    """A style's strokes by a hand that is never twice the same, `height` and `pen` in pixels."""
    over = 4 if height < 400 else 2
    width, lean = rng.uniform(0.5, 0.8), rng.normal(0, slant)
    side = round(height * 2 + 4 * pen + 8)
    image = Image.new("L", (side * over, side * over))
    draw = ImageDraw.Draw(image)
    for stroke in style.split(";"):
        given = [tuple(map(float, point.split(","))) for point in stroke.lstrip("~").split()]
        wobbled = [(x + rng.normal(0, 0.015), y + rng.normal(0, 0.015)) for x, y in given]
        points = _smooth(wobbled) if stroke[0] == "~" else wobbled
        placed = [
            (((x - 0.5) * width + lean * (0.5 - y)) * height + side / 2,
             (y - 0.5) * height + side / 2) for x, y in points
        ]  # fmt: skip
        scaled = [(x * over, y * over) for x, y in placed]
        draw.line(scaled, 255, max(1, round(pen * over)), joint="curve")
        for x, y in scaled:
            r = pen * over / 2
            draw.ellipse((x - r, y - r, x + r, y + r), 255)
    return cut(np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32) / 255)


def enlarged(digit: Bytes, height: float) -> Grey:
    """One of MNIST's digits, its longer side `height` pixels, with the edges that a pen leaves."""
    side = max(8, round(height * 28 / 20))
    image = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.asarray(image, np.float32) / 255
    return cut(np.clip((ink - 0.5) * max(1.0, height / 40) + 0.5, 0, 1) if height > 40 else ink)


def cut(ink: Grey) -> Grey:
    rows, columns = (np.flatnonzero((ink > 0.1).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
