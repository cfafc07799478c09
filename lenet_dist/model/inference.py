"""The forward pass alone, by the quickest way there is on this machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lenet_dist.kernels import native
from lenet_dist.model.lenet5 import LeNet5


def forward_of(model: nn.Module, kernels: str = "auto") -> Callable[[Tensor], Tensor]:
    """A function that gives the model's logits [n, C] of pixels, without gradients.

    LeNet-5 on a CPU is computed by the native kernel where there is one, unless `kernels` is
    "torch"; every other model by itself, in evaluation mode. The weights are those of now.
    """
    model.eval()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    is_native = kernels != "torch" and weights.device.type == "cpu" and native.variant()
    if type(model) is not LeNet5 or not is_native:
        return torch.no_grad()(model)
    mean, std = model.mean, model.std
    return lambda pixels: native.logits(weights, pixels.contiguous(), mean=mean, std=std)
