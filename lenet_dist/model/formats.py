"""LeNet-5 in the formats that other programs read.

A program takes `pixels`, float32 [n, 1, 28, 28] in [0, 1], and gives `logits` [n, 10]; mean and std
are inside.
"""

from __future__ import annotations

import io
import json
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from lenet_dist.exits import RequestError
from lenet_dist.model.lenet5 import LeNet5

CARD = "README.md"
"""The file name of the hub's model card."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
HUB_FILES = {CARD, _CONFIG, _WEIGHTS}
_BATCH = "images"
"""The name of the dimension that may have any size."""


def torch_export(model: LeNet5) -> bytes:
    """A program for `torch.export.load`, which needs torch alone; any number of images."""
    content = io.BytesIO()
    torch.export.save(_program(model), content)
    return content.getvalue()


def onnx(model: LeNet5) -> bytes:
    """An ONNX model in one piece; any number of images.

    Raises RequestError if the packages that write it are not installed.
    """
    if find_spec("onnxscript") is None:
        raise RequestError("--format onnx needs onnxscript: pip install 'lenet_dist[onnx]'")
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.11's, of its own calls.
        exported = torch.onnx.export(
            _program(model), input_names=["pixels"], output_names=["logits"],
            dynamic_shapes={"pixels": {0: _BATCH}}, dynamo=True, verbose=False,
        )  # fmt: skip
    assert exported is not None
    ClearMetadataAndDocStringPass()(exported.model)
    return exported.model_proto.SerializeToString()


def hub(model: LeNet5, weights: bytes, card: str) -> dict[str, bytes]:
    """The files, by name, of a folder for the hub and for `hub.HubLeNet5.from_pretrained`.

    `weights`: the content of the model's weights file.
    """
    scale = json.dumps({"mean": model.mean, "std": model.std})
    return {_WEIGHTS: weights, _CONFIG: scale.encode(), CARD: card.encode()}


def _program(model: LeNet5) -> ExportedProgram:
    pixels: Tensor = torch.zeros(2, 1, 28, 28)
    batch = Dim(_BATCH, min=1)
    program = torch.export.export(model.eval(), (pixels,), dynamic_shapes={"pixels": {0: batch}})
    # Stack traces name this machine's folders, which do not belong in a published file.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
