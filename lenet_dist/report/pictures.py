"""Pictures of what a run's weights do to the test images, as PNGs inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenet_dist.data import dataset
from lenet_dist.data.dataset import Images
from lenet_dist.model import inspect, weights
from lenet_dist.model.inference import forward_of
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.run_dir.directory import locate_weights
from lenet_dist.run_dir.reader import Run

_MISTAKES = 24
_SIGNED = LinearSegmentedColormap.from_list("signed", ["#e07a00", "#8080801f", "#1a85d6"])
"""Orange below 0, blue above, and the stronger the further from 0. Zeros are a faint grey, so that
a tile's edges show on a light and on a dark page."""


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
    model = weights.read(locate_weights(run.path)[0])
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
    return _png((255 - image).numpy())


def _tiles(maps: Tensor, columns: int) -> Picture:
    """Maps [n, h, w] side by side in whole rows, a pixel apart, all on one scale."""
    colours = _SIGNED((maps / maps.abs().max() + 1).numpy() / 2, bytes=True)
    apart = np.pad(colours, ((0, 0), (0, 1), (0, 1), (0, 0)))
    count, height, width, channels = apart.shape
    rows = apart.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    return _png(rows.reshape(-1, columns * width, channels))


def _png(pixels: NDArray[np.uint8]) -> Picture:
    """A picture of [h, w] grey, or [h, w, 4] RGBA."""
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(content, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(uri, image.width, image.height)
