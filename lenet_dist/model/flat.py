"""Parameters as one vector, and tensors as files take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def flatten(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One vector [P] of the parameters, in their order; they become views of it.

    The optimizer then updates one tensor instead of ten: for a network this small, most of its time
    was spent between tensors.
    """
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    for parameter, piece in zip(parameters, pieces(vector.detach(), parameters), strict=True):
        parameter.data = piece
    return vector


def pieces(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector [P], one for each of the parameters, of its shape."""
    parts = vector.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, detached and contiguous; of those that share memory, as tied weights
    do, all but the first are copies, because safetensors refuses others."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if tensor.data_ptr() in seen else plain
        seen.add(tensor.data_ptr())
    return found
