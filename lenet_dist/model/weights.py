"""Weights as a file: safetensors, with the input's scale in its header."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lenet_dist.exits import RequestError
from lenet_dist.files import is_special
from lenet_dist.model.flat import on_cpu
from lenet_dist.model.lenet5 import LeNet5

_ENTRY = "lenet_dist"
_TEMPERATURE = "temperature"
_WRONG_KINDS = (TypeError, AttributeError, RuntimeError)
"""What a header or tensors of another kind than ours raise."""


def to_bytes(
    weights: dict[str, Tensor], mean: float, std: float, temperature: float = 1.0
) -> bytes:
    """The content of a weights file; the same bytes for the same weights.

    `temperature`: the fitted number to divide the logits by before the softmax.
    """
    header = {"mean": mean, "std": std}
    if temperature != 1:
        header[_TEMPERATURE] = temperature
    # One entry only: the order in which safetensors writes several varies.
    return safetensors.torch.save(on_cpu(weights), {_ENTRY: json.dumps(header)})


def read(path: Path) -> LeNet5:
    """The model of a weights file; without mean and std in it, pixels in [0, 1] are not scaled.

    Raises RequestError naming the file if it does not hold LeNet-5's weights.
    """
    with refusals(path):
        found, scale = _content(path)
        model = LeNet5(**scale)
        model.load_state_dict(found)
        if not math.isfinite(model.mean) or not 0 < model.std < math.inf:
            raise ValueError("a value in it is not finite, or its std is not above 0")
    return model


def temperature(path: Path) -> float:
    """The number to divide the logits of a file's model by before the softmax; 1 if it has none.

    Raises RequestError naming the file if it is not a number above 0.
    """
    with refusals(path):
        value = _header(path).get(_TEMPERATURE, 1.0)
        if not 0 < value < math.inf:
            raise ValueError(f"its temperature is {value}, not a number above 0")
    return value


def tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The tensors of a file of any model's weights, and the `mean` and `std` that it tells.

    Raises RequestError naming the file if it holds no finite weights.
    """
    with refusals(path, "weights"):
        return _content(path)


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    scale, found = _header(path), safetensors.torch.load_file(path)
    if not all(tensor.isfinite().all() for tensor in found.values()):
        raise ValueError("a value in it is not finite")
    scale.pop(_TEMPERATURE, None)
    return found, scale


def _header(path: Path) -> dict[str, float]:
    if is_special(path) or path.is_dir():
        raise ValueError("a folder, a pipe or a device; name a file")
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
    return {name: float(number) for name, number in header.items()}


@contextmanager
def refusals(path: Path, what: str = "LeNet-5's weights") -> Iterator[None]:
    """Reading a weights file: what is wrong with it is a RequestError that names it."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, *_WRONG_KINDS) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{path}: not {what} in safetensors: {reason}") from None
