"""A run's weights, or a weights file, as a model for other programs.

    python -m lenet_dist.export RUN_OR_WEIGHTS --format FORMAT --out PATH

safetensors: the weights. torch-export: a program that needs torch alone. onnx: for ONNX runtimes.
hub: a folder as the Hugging Face hub has it. All take float32 pixels [n, 1, 28, 28] in [0, 1] and
give logits [n, 10]. A file at PATH is replaced, and so is a folder that was made by this command.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.files import failures_named, write_atomically
from lenet_dist.runtime.run_directory import locate_weights

if TYPE_CHECKING:
    from lenet_dist.model.lenet5 import LeNet5

FORMATS = ("safetensors", "torch-export", "onnx", "hub")
_HUB_FILES = {"README.md", "config.json", "model.safetensors"}


def main(arguments: list[str]) -> None:
    """Export as asked, and print where it is."""
    parser = exits.ArgumentParser(prog="lenet_dist.export", description=__doc__)
    parser.add_argument("target", metavar="RUN_OR_WEIGHTS", type=Path)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", metavar="PATH", type=Path, required=True)
    request = parser.parse_args(arguments)
    weights_file, _ = locate_weights(request.target)
    out: Path = request.out
    if not out.absolute().parent.is_dir():
        raise RequestError(f"--out {out}: there is no folder {out.absolute().parent}")
    if request.format == "hub":
        _check_folder(out)
    elif out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name a file")
    from lenet_dist.model import formats, weights

    model = weights.read(weights_file)
    if request.format == "hub":
        _write_folder(out, lambda folder: formats.hub(model, folder, _card(request.target, model)))
    else:
        formats_of_files = {
            "safetensors": formats.safetensors, "torch-export": formats.torch_export,
            "onnx": formats.onnx,
        }  # fmt: skip
        write_atomically(out, formats_of_files[request.format](model))
    print(out)


def _check_folder(out: Path) -> None:
    """A folder with anything else in it is not ours to replace."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: is a file; name a folder")
    strange = {path.name for path in out.iterdir()} - _HUB_FILES if out.exists() else set()
    if strange:
        raise RequestError(f"--out {out}: holds {min(strange)}; name a folder that is empty or new")


def _write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Have the folder whole, or as it was before."""
    temporary, previous = (out.with_name(f".{out.name}.{kind}") for kind in ("tmp", "old"))
    with failures_named(out):
        for folder in (temporary, previous):
            shutil.rmtree(folder, ignore_errors=True)
        write(temporary)
        if out.exists():
            out.rename(previous)
        temporary.rename(out)
        shutil.rmtree(previous, ignore_errors=True)


def _card(target: Path, model: LeNet5) -> str:
    """The hub's model card: what the run has measured, if it is one."""
    result_file = target / "result.json"
    result = json.loads(result_file.read_text()) if result_file.exists() else None
    front = [
        "---", "license: mit", "library_name: lenet_dist", "pipeline_tag: image-classification",
        "tags: [lenet-5, mnist, model_hub_mixin, pytorch_model_hub_mixin]",
    ]  # fmt: skip
    measured = "It comes without its run's result."
    if result:
        test = result["test"]
        front += ["metrics: [accuracy]"]
        measured = (
            f"Test accuracy {test['accuracy']:.2%} ({test['correct']} of {test['count']} images),"
            f" after {result['epochs']:g} epochs. SHA-256 of the weights:"
            f" `{result['weights_sha256']}`."
        )
    return "\n".join(
        [
            *front, "---", "", "# LeNet-5", "",
            "LeNet-5 (LeCun, Bottou, Bengio and Haffner, 1998) with max-pooling and ReLU: 61,706"
            " parameters. It takes float32 pixels [n, 1, 28, 28] in [0, 1], light ink on black,"
            f" and gives logits [n, 10]; mean {model.mean:g} and std {model.std:g} are inside.",
            "", measured, "",
            "```python", "from lenet_dist.model.hub import HubLeNet5", "",
            'model = HubLeNet5.from_pretrained("FOLDER or USER/NAME")', "```", "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    exits.run(main)
