"""Export a run's weights, or a weights file, as a model for other programs.

    python -m lenet_dist.export RUN_OR_WEIGHTS --format FORMAT --out PATH

safetensors: the weights, byte for byte. torch-export: a program that needs only torch. onnx: for
ONNX runtimes. hub: a folder for the Hugging Face hub; that of a run includes its measured results.
All take float32 pixels [n, 1, 28, 28] in [0, 1] and give logits [n, 10].

An existing file at PATH is replaced, and so is a folder that this command made.
"""

from __future__ import annotations

from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.files import check_file_can_be_written, replace_folder, write_atomically
from lenet_dist.run_dir.directory import locate_weights

_OPSET = 13
"""The default opset, of 2020, which runtimes since then take. LeNet-5 needs nothing newer."""


def main(arguments: list[str]) -> None:
    """Export as asked, and print the path."""
    parser = exits.ArgumentParser(prog="lenet_dist.export", description=__doc__)
    parser.add_argument("target", metavar="RUN_OR_WEIGHTS", type=Path)
    formats = ("safetensors", "torch-export", "onnx", "hub")
    parser.add_argument("--format", choices=formats, required=True)
    parser.add_argument("--out", metavar="PATH", type=Path, required=True)
    parser.add_argument(
        "--opset", metavar="N", type=int, help=f"of ONNX's operators, for onnx; default {_OPSET}"
    )
    request = parser.parse_args(arguments)
    if request.opset is not None and request.format != "onnx":
        raise RequestError(f"--opset {request.opset}: only for --format onnx")
    weights_file, _ = locate_weights(request.target)
    if request.format == "hub":
        from lenet_dist.report import card

        card.check(request.out)
        replace_folder(request.out, card.folder_content(request.target, weights_file))
    else:
        check_file_can_be_written("--out", request.out)
        if request.out.exists() and request.out.samefile(weights_file):
            raise RequestError(f"--out {request.out}: is the weights file itself; name another")
        write_atomically(request.out, _file(request.format, weights_file, request.opset))
    print(request.out)


def _file(form: str, weights_file: Path, opset: int | None) -> bytes:
    from lenet_dist.model import formats, weights

    model = weights.read(weights_file)
    match form:
        case "torch-export":
            return formats.torch_export(model)
        case "onnx":
            return formats.onnx(model, _OPSET if opset is None else opset)
        case _:
            return weights_file.read_bytes()


if __name__ == "__main__":
    exits.run(main)
