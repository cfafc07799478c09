"""LeNet-5 in the formats that other programs read.

A program takes `pixels`, float32 [n, 1, 28, 28] in [0, 1], and gives `logits` [n, 10]; mean and std
are inside.
"""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from typing import Any

import torch
from torch.export import Dim

from lenet_dist.exits import RequestError
from lenet_dist.model.lenet5 import LeNet5

CARD = "README.md"
"""The file name of the hub's model card."""
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
HUB_FILES = {CARD, _CONFIG, _WEIGHTS}
_BATCH = "images"
"""The name of the dimension that may have any size."""
_OLDEST_OPSET = 9
"""The oldest opset that can be asked for: before it these operators took other inputs."""


def torch_export(model: LeNet5) -> bytes:
    """A program for `torch.export.load`, which needs torch alone; any number of images."""
    pixels, batch = torch.zeros(2, 1, 28, 28), Dim(_BATCH, min=1)
    program = torch.export.export(model.eval(), (pixels,), dynamic_shapes={"pixels": {0: batch}})
    # Stack traces name this machine's folders, which do not belong in a published file.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def onnx(model: LeNet5, opset: int) -> bytes:
    """An ONNX model in one piece; any number of images.

    Raises RequestError if the package that writes it is not installed or does not know the opset.
    """
    if find_spec("onnx") is None:
        raise RequestError("--format onnx needs onnx: pip install 'lenet_dist[onnx]'")
    from onnx import TensorProto, defs, helper, numpy_helper

    newest = defs.onnx_opset_version()
    if not _OLDEST_OPSET <= opset <= newest:
        raise RequestError(f"--opset {opset}: must be {_OLDEST_OPSET} to {newest}")
    scale = {"mean": torch.tensor(model.mean), "std": torch.tensor(model.std)}
    tensors = scale | dict(model.state_dict())
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    layers: list[tuple[str, str, dict[str, Any]]] = [
        ("Sub", "mean", {}), ("Div", "std", {}),
        ("Conv", "C1", {"pads": [2, 2, 2, 2]}), ("MaxPool", "S2", pool), ("Relu", "S2.relu", {}),
        ("Conv", "C3", {}), ("MaxPool", "S4", pool), ("Relu", "S4.relu", {}),
        ("Conv", "C5", {}), ("Relu", "C5.relu", {}), ("Flatten", "flat", {}),
        ("Gemm", "F6", {"transB": 1}), ("Relu", "F6.relu", {}), ("Gemm", "OUT", {"transB": 1}),
    ]  # fmt: skip
    nodes, given = [], "pixels"
    for operator, name, attributes in layers:
        takes = [given, *(entry for entry in tensors if entry.split(".")[0] == name)]
        given = "logits" if name == "OUT" else f"{name}.out"
        nodes.append(helper.make_node(operator, takes, [given], name, **attributes))
    graph = helper.make_graph(
        nodes, "LeNet-5",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [_BATCH, 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [_BATCH, 10])],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in tensors.items()],
    )  # fmt: skip
    asked = [helper.make_opsetid("", opset)]
    # The oldest format that has this opset: each newer one leaves runtimes out.
    ir_version = helper.find_min_ir_version_for(asked)
    return helper.make_model(
        graph, opset_imports=asked, ir_version=ir_version, producer_name="lenet_dist"
    ).SerializeToString()


def hub(model: LeNet5, weights: bytes, card: str) -> dict[str, bytes]:
    """The files, by name, of a folder for the hub and for `hub.HubLeNet5.from_pretrained`.

    `weights`: the content of the model's weights file.
    """
    scale = json.dumps({"mean": model.mean, "std": model.std})
    return {_WEIGHTS: weights, _CONFIG: scale.encode(), CARD: card.encode()}
