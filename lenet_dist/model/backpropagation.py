"""LeNet-5's forward and backward pass written out, for a CPU.

For images this small, what a framework does between a network's operations takes a third of a
step. LeCun, Bottou, Bengio and Haffner, 1998, section II.A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lenet_dist.model import pooling

_threshold_backward = torch.ops.aten.threshold_backward.default


class Passed(NamedTuple):
    """What the forward pass leaves to the backward pass: inputs of each layer, after ReLU."""

    c1: pooling.C1
    c3: pooling.C3
    s4: Tensor
    c5: Tensor
    f6: Tensor


def forward(images: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Passed]:
    """Logits [n, 10] of images [n, 1, 28, 28], float32, and what their gradient needs.

    The parameters are weight and bias of C1, C3, C5, F6 and OUT.
    """
    c1_w, c1_b, c3_w, c3_b, c5_w, c5_b, f6_w, f6_b, out_w, out_b = parameters
    c1 = pooling.c1_s2(images, c1_w, c1_b)
    c3 = pooling.c3_s4(c1.maps, c3_w, c3_b)
    s4 = c3.maps.flatten(1)
    c5 = torch.addmm(c5_b, s4, c5_w.flatten(1).t()).relu_()
    f6 = torch.addmm(f6_b, c5, f6_w.t()).relu_()
    return torch.addmm(out_b, f6, out_w.t()), Passed(c1, c3, s4, c5, f6)


def backward(out: Tensor, passed: Passed, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of each parameter, from that of the logits, `out` [n, 10]."""
    _, _, c3_w, _, c5_w, _, f6_w, _, out_w, _ = parameters
    c1, c3, s4, c5, f6 = passed
    f6_gradient = _threshold_backward(out @ out_w, f6, 0)
    c5_gradient = _threshold_backward(f6_gradient @ f6_w, c5, 0)
    s4_gradient = (c5_gradient @ c5_w.flatten(1)).view_as(c3.maps)
    s2_gradient, *c3_gradients = pooling.c3_s4_gradient(s4_gradient, c3, c3_w)
    return (
        *pooling.c1_s2_gradient(s2_gradient, c1),
        *c3_gradients,
        (c5_gradient.t() @ s4).view_as(c5_w), c5_gradient.sum(0),
        f6_gradient.t() @ c5, f6_gradient.sum(0),
        out.t() @ f6, out.sum(0),
    )  # fmt: skip


class Logits(torch.autograd.Function):
    """`forward` as autograd sees it: one operation. The images get no gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, *parameters: Tensor) -> Tensor:
        logits, passed = forward(images, parameters)
        ctx.save_for_backward(*parameters)
        ctx.passed = passed
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out: Tensor) -> tuple[Tensor | None, ...]:
        return None, *backward(out, ctx.passed, ctx.saved_tensors)
