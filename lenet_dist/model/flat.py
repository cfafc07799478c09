"""A model's parameters as one vector."""

from __future__ import annotations

import torch
from torch import nn


def flatten(model: nn.Module) -> nn.Parameter:
    """One vector [P] of all the model's parameters, in their order; they become views of it.

    The optimizer then updates one tensor instead of ten: for a network this small, most of its time
    was spent between tensors.
    """
    parameters = list(model.parameters())
    vector = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    pieces = vector.detach().split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.data = piece.view_as(parameter)
    return vector
