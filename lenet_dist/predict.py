"""Name the digit in each picture.

    python -m lenet_dist.predict IMAGE_OR_FOLDER... [--weights FILE] [--json]

A picture is a PNG or JPEG of one digit, of any size: dark on light or light on dark, drawn, scanned
or photographed on paper. Of a folder its pictures are read, in the order of their names. The
default weights are the package's own. If a digit's probability is below 90 %, it is marked as
unsure, and the next likely digit is named too. Pictures that can't be read are named at the end,
after the others' digits, with exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.model.prediction import Prediction

PRETRAINED = Path(__file__).parent / "pretrained" / "lenet5.safetensors"


def main(arguments: list[str]) -> None:
    """Read all pictures, then print one line for each."""
    parser = exits.ArgumentParser(prog="lenet_dist.predict", description=__doc__)
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+")
    parser.add_argument(
        "--weights", metavar="FILE", type=Path, default=PRETRAINED,
        help="a weights file (default: the package's own)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    request = parser.parse_args(arguments)
    outcomes = _predicted(request.images, request.weights)
    refused = {name: why for name, why in outcomes if isinstance(why, str)}
    if request.json:
        entries = [
            {"image": name, "error": outcome} if isinstance(outcome, str) else outcome.fields()
            for name, outcome in outcomes
        ]
        print(json.dumps(entries))
    else:
        lines = "".join(f"{outcome}\n" for _, outcome in outcomes if not isinstance(outcome, str))
        # Bytes, because a file name need not be valid text.
        sys.stdout.buffer.write(os.fsencode(lines))
    sys.stdout.flush()
    if refused:
        raise RequestError("; ".join(f"{name}: {why}" for name, why in refused.items()))


def _predicted(named: list[str], weights_file: Path) -> list[tuple[str, Prediction | str]]:
    """Each picture's name, and its prediction or why it can't be read."""
    import torch

    from lenet_dist.data import picture
    from lenet_dist.data.dataset import pixels
    from lenet_dist.model import prediction

    probabilities_of = prediction.by(weights_file)
    outcomes: list[tuple[str, Prediction | str]] = []
    for name in [each for image in named for each in picture.named(image)]:
        try:
            digit = torch.from_numpy(picture.read(Path(name)))
        except RequestError as error:
            outcomes.append((name, str(error).removeprefix(f"{name}: ")))
            continue
        probabilities = probabilities_of(pixels(digit[None]))
        if not probabilities.isfinite().all():
            raise RequestError(f"{weights_file}: its logits are not finite")
        outcomes.append((name, Prediction(name, probabilities.tolist())))
    return outcomes


if __name__ == "__main__":
    exits.run(main)
