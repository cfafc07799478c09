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
from typing import Any

from lenet_dist import exits
from lenet_dist.exits import RequestError

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
    entries = _predicted(request.images, request.weights)
    if request.json:
        print(json.dumps(entries))
    else:
        lines = "".join(map(_line, (entry for entry in entries if "digit" in entry)))
        # Bytes, because a file name need not be valid text.
        sys.stdout.buffer.write(os.fsencode(lines))
    sys.stdout.flush()
    if refused := [f"{entry['image']}: {entry['error']}" for entry in entries if "error" in entry]:
        raise RequestError("; ".join(refused))


def _predicted(named: list[str], weights_file: Path) -> list[dict[str, Any]]:
    """What `--json` prints of each picture: its prediction, or the error if it can't be read."""
    import torch

    from lenet_dist.data import picture
    from lenet_dist.data.dataset import pixels
    from lenet_dist.model import prediction

    probabilities_of = prediction.by(weights_file)
    entries: list[dict[str, Any]] = []
    for name in [each for path in named for each in picture.named(path)]:
        try:
            image = torch.from_numpy(picture.read(Path(name)))
        except RequestError as error:
            entries.append({"image": name, "error": str(error).removeprefix(f"{name}: ")})
            continue
        probabilities = probabilities_of(pixels(image[None]))
        if not probabilities.isfinite().all():
            raise RequestError(f"{weights_file}: its logits are not finite")
        probability, digit = (found.item() for found in probabilities.max(0))
        entry = {"image": name, "digit": digit, "probability": probability}
        entries.append(entry | {"probabilities": probabilities.tolist()})
    return entries


def _line(entry: dict[str, Any]) -> str:
    from lenet_dist.model.prediction import SURE

    probabilities = entry["probabilities"]
    first, second, *_ = sorted(range(len(probabilities)), key=lambda n: -probabilities[n])
    line = f"{entry['image']}: {first} ({probabilities[first]:.1%})"
    if probabilities[first] < SURE:
        line += f", unsure: {first} or {second} ({probabilities[second]:.1%})"
    return f"{line}\n"


if __name__ == "__main__":
    exits.run(main)
