"""Pictures of what a run's weights do to the test images, as PNGs inside the page."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lenet_dist.data import dataset
from lenet_dist.data.dataset import Images
from lenet_dist.exits import RequestError
from lenet_dist.model import inspect, weights
from lenet_dist.model.inference import forward_of
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.reader import Run

_MISTAKES = 24
_POSITIVE = torch.tensor((26.0, 133.0, 214.0))
_NEGATIVE = torch.tensor((224.0, 122.0, 0.0))
_ZERO = torch.tensor((128.0, 128.0, 128.0))
_FAINTEST = 0.12
"""Opacity of a tile's zeros, so that its edges show on a light and on a dark page."""


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, and its size in its own pixels."""

    uri: str
    width: int
    height: int


def load(run: Run, data_root: str | None) -> tuple[LeNet5, Images]:
    """A run's final model, and the test images on this machine's disk.

    Nothing is fetched. Raises RequestError saying what is missing or does not belong to the run.
    """
    if run.result is None:
        raise RequestError("they need the final weights, and the run is not complete")
    file = RunDirectory(run.path).weights
    model = weights.read(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != run.result.weights_sha256:
        raise RequestError("model.safetensors is not the file that result.json describes")
    data = replace(run.config.data, root=data_root or run.config.data.root, download=False)
    return model, dataset.load(data, "test")


@torch.no_grad()
def make(model: LeNet5, test: Images) -> dict[str, Any]:
    """The pictures of a model and of what it makes of the test images, by name.

    `largest_weight` is C1's largest in absolute value, which has the filters' full colour. `label`
    is that of test image 0, which `image`, `s2` and `s4` show.
    """
    logits = forward_of(model)(dataset.pixels(test.images))
    mistakes = inspect.worst_mistakes(logits, test.labels, test.images, _MISTAKES)
    filters = inspect.filters(model)
    s2, s4 = inspect.feature_maps(model, dataset.pixels(test.images[:1])[0])
    return {
        "mistakes": [(mistake, _ink(mistake.image)) for mistake in mistakes],
        "filters": _tiles(filters, columns=3),
        "largest_weight": float(filters.abs().max()),
        "label": int(test.labels[0]),
        "image": _ink(test.images[0]),
        "s2": _tiles(s2, columns=3),
        "s4": _tiles(s4, columns=4),
    }


def _ink(image: Tensor) -> Picture:
    """A uint8 image [h, w], its strokes dark on white."""
    return _png(255 - image)


def _tiles(maps: Tensor, columns: int) -> Picture:
    """Maps [n, h, w] side by side in rows, a pixel apart, all on one scale: blue above 0, orange
    below, and the stronger the further from 0."""
    strength = (maps / maps.abs().max().clamp(min=1e-12))[..., None]
    hue = torch.where(strength > 0, _POSITIVE, _NEGATIVE)
    colours = torch.lerp(_ZERO, hue, strength.abs())
    alpha = 255 * (_FAINTEST + (1 - _FAINTEST) * strength.abs())
    pixels = torch.cat([colours, alpha], -1).round().to(torch.uint8)
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    sheet = pixels.new_zeros(rows * (height + 1) - 1, columns * (width + 1) - 1, channels)
    for number, tile in enumerate(pixels):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = tile
    return _png(sheet)


def _png(pixels: Tensor) -> Picture:
    """A picture of uint8 [h, w] grey, or [h, w, 4] RGBA."""
    content = io.BytesIO()
    image = Image.fromarray(pixels.numpy())
    image.save(content, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(uri, image.width, image.height)
