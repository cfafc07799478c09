"""The digit in each picture.

    python -m lenet_dist.predict IMAGE... [--weights FILE] [--json]

A picture is a PNG or JPEG of one digit, of any size: dark on light or light on dark, drawn, scanned
or photographed on paper. The weights are those that come with the package, or a run's. Below a
probability of 90 % a digit is called unsure, and the next one is named too. If one picture can't be
read, nothing is printed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_dist import exits

if TYPE_CHECKING:
    from torch import Tensor

SURE = 0.9
"""A probability below this is said to be unsure."""
PRETRAINED = Path(__file__).parent / "pretrained" / "lenet5.safetensors"


def main(arguments: list[str]) -> None:
    """Read all pictures, then print a line each."""
    parser = exits.ArgumentParser(prog="lenet_dist.predict", description=__doc__)
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=PRETRAINED,
        help="a weights file (default: the package's own)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    request = parser.parse_args(arguments)
    probabilities = _probabilities(request.images, request.weights).tolist()
    predictions = list(zip(request.images, probabilities, strict=True))
    if request.json:
        print(json.dumps([_as_json(*prediction) for prediction in predictions]))
    else:
        lines = "".join(f"{_as_line(*prediction)}\n" for prediction in predictions)
        # A file's name need not be text.
        sys.stdout.buffer.write(os.fsencode(lines))


def _probabilities(images: list[Path], weights_file: Path) -> Tensor:
    import numpy as np
    import torch

    from lenet_dist.data import picture
    from lenet_dist.data.dataset import pixels
    from lenet_dist.model import weights

    model = weights.read(weights_file).eval()
    temperature = weights.temperature(weights_file)
    digits = torch.from_numpy(np.stack([picture.read(image) for image in images]))
    with torch.no_grad():
        return (model(pixels(digits)).double() / temperature).softmax(1)


def _as_json(image: Path, probabilities: list[float]) -> dict[str, object]:
    digit = _ranked(probabilities)[0]
    return {
        "image": str(image),
        "digit": digit,
        "probability": probabilities[digit],
        "probabilities": probabilities,
    }


def _as_line(image: Path, probabilities: list[float]) -> str:
    first, second, *_ = _ranked(probabilities)
    line = f"{image}: {first} ({probabilities[first]:.1%})"
    if probabilities[first] < SURE:
        line += f", unsure: {first} or {second} ({probabilities[second]:.1%})"
    return line


def _ranked(probabilities: list[float]) -> list[int]:
    """The digits, the likeliest first."""
    return sorted(range(len(probabilities)), key=lambda digit: -probabilities[digit])


if __name__ == "__main__":
    exits.run(main)
