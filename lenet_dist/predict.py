"""Name the digit in each picture.

    python -m lenet_dist.predict IMAGE... [--weights FILE] [--json]

A picture is a PNG or JPEG of one digit, of any size: dark on light or light on dark, drawn, scanned
or photographed on paper. The default weights are the package's own. If a digit's probability is
below 90 %, it is marked as unsure, and the next likely digit is named too. If any picture can't be
read, nothing is printed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.model.prediction import Prediction

if TYPE_CHECKING:
    from torch import Tensor

PRETRAINED = Path(__file__).parent / "pretrained" / "lenet5.safetensors"


def main(arguments: list[str]) -> None:
    """Read all pictures, then print one line for each."""
    parser = exits.ArgumentParser(prog="lenet_dist.predict", description=__doc__)
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=PRETRAINED,
        help="a weights file (default: the package's own)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    request = parser.parse_args(arguments)
    probabilities = _probabilities(list(map(Path, request.images)), request.weights).tolist()
    predictions = list(map(Prediction, request.images, probabilities))
    if request.json:
        print(json.dumps([prediction.fields() for prediction in predictions]))
    else:
        lines = "".join(f"{prediction}\n" for prediction in predictions)
        # Bytes, because a file name need not be valid text.
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
        logits = model(pixels(digits))
    if not logits.isfinite().all():
        raise RequestError(f"{weights_file}: its logits are not finite")
    return (logits.double() / temperature).softmax(1)


if __name__ == "__main__":
    exits.run(main)
