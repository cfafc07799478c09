"""LeNet-5 in the formats that other programs read.

Everywhere it takes `pixels`, float32 [n, 1, 28, 28] in [0, 1], and gives `logits` [n, 10]; mean and
std are inside.
"""

from __future__ import annotations

import contextlib
import io
import json
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from lenet_dist.exits import RequestError
from lenet_dist.model import weights
from lenet_dist.model.lenet5 import LeNet5


def safetensors(model: LeNet5) -> bytes:
    """A weights file, as a run leaves it."""
    return weights.to_bytes(dict(model.state_dict()), model.mean, model.std)


def torch_export(model: LeNet5) -> bytes:
    """A program for `torch.export.load`, which needs torch alone; any number of images."""
    content = io.BytesIO()
    torch.export.save(_program(model), content)
    return content.getvalue()


def onnx(model: LeNet5) -> bytes:
    """An ONNX model in one piece; any number of images.

    Raises RequestError where the packages that write it are not installed.
    """
    if find_spec("onnxscript") is None:
        raise RequestError("--format onnx needs onnxscript: pip install 'lenet_dist[onnx]'")
    # It reports its progress on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            _program(model), input_names=["pixels"], output_names=["logits"], dynamo=True
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def hub(model: LeNet5, folder: Path, card: str) -> None:
    """A folder for `hub.HubLeNet5.from_pretrained`, and to upload to the hub, with its card."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(model))
    (folder / "config.json").write_text(json.dumps({"mean": model.mean, "std": model.std}))
    (folder / "README.md").write_text(card, encoding="utf-8")


def _program(model: LeNet5) -> ExportedProgram:
    pixels: Tensor = torch.zeros(2, 1, 28, 28)
    return torch.export.export(
        model.eval(), (pixels,), dynamic_shapes={"pixels": {0: Dim("images", min=1)}}
    )
