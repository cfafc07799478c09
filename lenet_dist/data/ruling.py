"""The lines that a digit was drawn on or in: squared and lined paper, boxes of a form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Grey = npt.NDArray[np.float32]
"""[height, width]."""
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice]

INKED = 0.3
"""Ink from which a pixel belongs to a stroke."""
NEIGHBOURS = np.ones((3, 3), bool)
"""Diagonals connect."""
_FAINT = 0.2
"""Ink from which a pixel may belong to a printed line."""
_THIN = 0.6
"""Share of the pen's breadth below which a line that leaves the picture is a printed one."""


def without_lines(ink: Grey) -> Grey:
    """The ink without the lines of squared paper or of a box.

    A line ends at the picture's edges or at another line, and goes on beyond the digit or lies
    beside it; a stroke of a digit ends freely.
    """
    # Lines are looked for in some 128 pixels, thin ones kept.
    step = max(1, round(max(ink.shape) / 128))
    small = ndimage.maximum_filter(ink, step)[step // 2 :: step, step // 2 :: step]
    place = around(small > INKED)
    part = small[place]
    margin = 1 + max(part.shape) // 30
    level, upright = _level_lines(part > _FAINT), [line.T for line in _level_lines(part.T > _FAINT)]
    corners = [_ends(level, 1), _ends(upright, 0)]
    # The picture's edge is where a line may end.
    origin, last = np.array([side.start for side in place]), np.array(small.shape) - 1
    bounded = []
    for axis, lines in ((1, level), (0, upright)):
        for line, ends in zip(lines, corners[1 - axis], strict=True):
            others = corners[axis].reshape(-1, 2)
            meets = (np.abs(ends[:, None] - others).max(2) <= 2 * margin).any(1)
            leaves = ((ends + origin <= 1) | (ends + origin >= last - 1))[:, axis]
            if (meets | leaves).all():
                bounded.append((axis, line, leaves.any()))
    if not bounded:
        return ink
    either = ndimage.binary_dilation(
        np.logical_or.reduce([line for _, line, _ in bounded]), NEIGHBOURS
    )
    digit = _main((part > INKED) & ~either)
    if digit is None:
        if len(bounded) == 1:
            return ink
        raise ValueError("nothing is drawn on it but lines")
    within = ndimage.distance_transform_edt((part > INKED) & ~either)
    pen = 4 * (within[within > 0].mean() - 0.5)
    ruled = np.zeros((2, *small.shape), np.float32)
    for axis, line, leaves in bounded:
        along, across = around(line)[axis], around(line)[1 - axis]
        is_longer = (
            along.start < digit[axis].start - margin and along.stop > digit[axis].stop + margin
        )
        is_beside = (
            across.stop < digit[1 - axis].start - margin
            or across.start > digit[1 - axis].stop + margin
        )
        is_thin = leaves and line.sum() / (along.stop - along.start) < _THIN * pen
        if is_longer or is_beside or is_thin:
            ruled[axis][place] = np.maximum(ruled[axis][place], line * np.median(part[line]))
    return _erased(_erased(ink, ruled[1], step).T, ruled[0].T, step).T


def _erased(ink: Grey, ruled: Grey, step: int) -> Grey:
    """The ink without level lines of these levels, but for what is broader and crosses them."""
    if not ruled.any():
        return ink
    levels = ndimage.maximum_filter(ruled, 5).repeat(step, 0).repeat(step, 1)
    levels = np.pad(levels, ((0, step), (0, step)))[: ink.shape[0], : ink.shape[1]]
    inked = ((levels > 0) & (ink > levels / 2)).astype(int)
    # Each line's breadth at each place.
    runs, _ = ndimage.label(inked, [[0, 1, 0]] * 3)
    breadth = round(float(np.median(np.bincount(runs[runs > 0])[1:])))
    crossing = ndimage.grey_opening(ink, (round(1.25 * breadth) + 2, 1))
    return np.where((levels > 0) & (ink < levels + 0.25), crossing, ink)


def _ends(lines: list[Mask], axis: int) -> npt.NDArray[np.float64]:
    """Where each line begins and ends along an axis: [lines, 2, (y, x)]."""
    ends = np.zeros((len(lines), 2, 2))
    for line, (first, last) in zip(lines, ends, strict=True):
        points = np.argwhere(line)
        for point, extreme in ((first, points[:, axis].min()), (last, points[:, axis].max())):
            point[:] = points[points[:, axis] == extreme].mean(0)
    return ends


def _level_lines(mask: Mask) -> list[Mask]:
    """The straight and thin lines in it, longer than half of it, within six degrees of level."""
    height, width = mask.shape
    y, x = np.mgrid[:height, :width]
    margin, length = width // 20 + 1, max(1, width * 11 // 20)
    beyond = ((margin, margin), (0, 0))
    padded = np.pad(ndimage.maximum_filter(mask, (3, 1)), beyond)
    turns = []
    for slope in np.linspace(-0.1, 0.1, 11):
        shift = np.rint(slope * (x - width / 2)).astype(int)
        turned = padded[y + margin + shift, x]
        share = ndimage.uniform_filter1d(turned.astype(float), length, 1, mode="constant")
        along = ndimage.maximum_filter1d(share > 0.95, length, 1, mode="constant") & turned
        turns.append(np.pad(along, beyond)[y + margin - shift, x] & mask)
    # Lines are nearly parallel.
    best = int(np.argmax([turn.sum() for turn in turns]))
    found = np.logical_or.reduce(turns[max(0, best - 1) : best + 2])
    found &= ~ndimage.binary_opening(found, np.ones((max(3, max(mask.shape) // 8), 1)))
    labels, count = ndimage.label(found, NEIGHBOURS)
    lines = []
    for number in range(1, count + 1):
        line = labels == number
        breadth = line.sum(0)
        if np.count_nonzero(breadth) < max(4, length * 0.9):
            continue
        # Where a stroke crosses it, it is as broad as elsewhere.
        usual = np.median(breadth[breadth > 0])
        rows, columns = np.nonzero(line & (breadth <= usual))
        middle = np.polynomial.Polynomial.fit(columns, rows, 1)(x)
        lines.append(line & (np.abs(y - middle) <= usual / 2 + 0.5))
    return lines


def _main(mask: Mask) -> Box | None:
    """The box around the largest part, None if there is no large one."""
    labels, _ = ndimage.label(mask, NEIGHBOURS)
    boxes = ndimage.find_objects(labels)
    areas = np.bincount(labels.reshape(-1))
    areas[0] = 0
    # Lines have cut it into pieces.
    box = around(areas[labels] > 0.2 * areas.max()) if boxes else None
    return box if box and extent(box) > 0.08 * max(mask.shape) else None


def extent(box: Box) -> int:
    return max(side.stop - side.start for side in box)


def around(mask: Mask) -> Box:
    return ndimage.find_objects(mask.astype(int))[0]
