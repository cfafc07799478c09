"""LeNet-5's forward and backward passes written out by hand.

For images this small, a framework's overhead between operations takes a third of a step on a CPU.
And written out, one pass gives the gradients of many shards. LeCun, Bottou, Bengio and Haffner,
1998, section II.A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lenet_dist.model import pooling

_threshold_backward = torch.ops.aten.threshold_backward.default


_LEAST_ROWS = 16
"""For matrices of fewer rows MKL uses other kernels, which add in another order."""


class Passed(NamedTuple):
    """What the forward pass leaves for the backward pass: each layer's inputs, after ReLU."""

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
    s4 = _at_least_16_rows(c3.maps.flatten(1))
    c5 = torch.addmm(c5_b, s4, c5_w.flatten(1).t()).relu_()
    f6 = torch.addmm(f6_b, c5, f6_w.t()).relu_()
    logits = torch.addmm(out_b, f6, out_w.t())
    return logits[: len(images)], Passed(c1, c3, s4, c5, f6)


def backward(
    out: Tensor, passed: Passed, parameters: Sequence[Tensor], shards: int | None
) -> tuple[Tensor, ...]:
    """The gradient of each parameter [shards, ...], given that of the logits, `out` [n, 10].

    The n images are `shards` equal shards in a row. Work on single images is done for all of them
    together, with the same bits however many there are; only sums over images are taken shard by
    shard. So a shard's gradient has the same bits whatever is computed beside it. None: one
    gradient of all images, a little faster, with other bits.
    """
    _, _, c3_w, _, c5_w, _, f6_w, _, out_w, _ = parameters
    c1, c3, s4, c5, f6 = passed
    n = len(out)
    out = _at_least_16_rows(out)
    f6_gradient = _threshold_backward(out @ out_w, f6, 0)
    c5_gradient = _threshold_backward(f6_gradient @ f6_w, c5, 0)
    s4_gradient = (c5_gradient @ c5_w.flatten(1))[:n].view_as(c3.maps)
    s2_gradient, *c3_gradients = pooling.c3_s4_gradient(s4_gradient, c3, c3_w, shards)
    of_shards = (
        t[:n].unflatten(0, (shards or 1, -1)) for t in (s4, c5_gradient, c5, f6_gradient, f6, out)
    )
    s4, c5_gradient, c5, f6_gradient, f6, out = of_shards
    return (
        *pooling.c1_s2_gradient(s2_gradient, c1, shards),
        *c3_gradients,
        _products(c5_gradient, s4), c5_gradient.sum(1),
        _products(f6_gradient, c5), f6_gradient.sum(1),
        _products(out, f6), out.sum(1),
    )  # fmt: skip


def _at_least_16_rows(matrix: Tensor) -> Tensor:
    missing = _LEAST_ROWS - len(matrix)
    return F.pad(matrix, (0, 0, 0, missing)) if missing > 0 else matrix


def _products(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The weight gradients [shards, out, in] from [shards, n, out] and [shards, n, in]."""
    shards = len(inputs)
    if shards == 1:  # MKL may use other kernels for a single product.
        gradient, inputs = gradient.expand(2, -1, -1), inputs.expand(2, -1, -1)
    return torch.bmm(gradient.transpose(1, 2), inputs)[:shards]


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
        parameters = ctx.saved_tensors
        gradients = backward(out, ctx.passed, parameters, None)
        return None, *(g.view_as(p) for g, p in zip(gradients, parameters, strict=True))
