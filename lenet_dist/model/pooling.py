"""C1 with S2 and C3 with S4, on a CPU: convolution, max-pooling and ReLU as one step each.

The same function and the same gradient as torch's own three operations in a row, at about twice
their speed, from tensor operations alone. docs/benchmarks/README.md has the figures.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_aten = torch.ops.aten
_POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)
"""Kernel, stride, padding, dilation and ceil mode of S2 and S4."""
_BELOW_ZERO = -torch.finfo(torch.float32).tiny


class ConvolutionOfImages(torch.autograd.Function):
    """S2's maps [n, 6, 14, 14] of images [n, 1, 28, 28], with C1's weight and bias.

    The four outputs that a pooling window compares are four channels of one wider convolution with
    stride 2: its 24 channels fill the processor's vectors, C1's 6 do not, and the maximum is taken
    over whole blocks of memory. The images get no gradient.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        wide = (weight.flatten(1) @ _shifts()).view(-1, 4, 36).transpose(0, 1).reshape(-1, 1, 6, 6)
        outputs = torch.conv2d(images, wide, bias.repeat(4), stride=2, padding=2)
        first, second, third, fourth = outputs.chunk(4, 1)
        maps = torch.maximum(first, second)
        torch.maximum(maps, third, out=maps)
        torch.maximum(maps, fourth, out=maps)
        maps.clamp_(min=0)
        ctx.save_for_backward(images, wide, outputs, maps)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        images, wide, outputs, maps = ctx.saved_tensors
        rest = _aten.threshold_backward(gradient, maps, 0)
        bias_gradient = rest.sum((0, 2, 3))
        output_gradient = torch.empty_like(outputs)
        # Of equal outputs the first has the gradient, as in torch's pooling.
        *earlier, last = zip(outputs.chunk(4, 1), output_gradient.chunk(4, 1), strict=True)
        for output, share in earlier:
            share.copy_(_aten.threshold_backward(rest, output - maps, _BELOW_ZERO))
            rest -= share
        last[1].copy_(rest)
        wide_gradient = _convolution_backward(
            output_gradient, images, wide, stride=2, padding=2, of=(False, True)
        )[1]
        channels = maps.shape[1]
        by_channel = wide_gradient.view(4, channels, 36).transpose(0, 1).reshape(channels, 144)
        return None, (by_channel @ _shifts().t()).view(channels, 1, 5, 5), bias_gradient


class ConvolutionOfMaps(torch.autograd.Function):
    """S4's maps [n, 16, 5, 5] of S2's [n, 6, 14, 14], with C3's weight and bias.

    Each of the three convolutions runs in the memory layout in which oneDNN is fastest at it. The
    bias's gradient is summed after pooling, over a quarter of the values.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        inputs = maps.contiguous(memory_format=torch.channels_last)
        kernel = weight.contiguous(memory_format=torch.channels_last)
        outputs = torch.conv2d(inputs, kernel, bias)
        pooled, indices = _aten.max_pool2d_with_indices(outputs, *_POOL)
        pooled.clamp_(min=0)
        ctx.save_for_backward(maps, inputs, weight, kernel, outputs, pooled, indices)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, inputs, weight, kernel, outputs, pooled, indices = ctx.saved_tensors
        gradient = _aten.threshold_backward(gradient, pooled, 0)
        bias_gradient = gradient.sum((0, 2, 3))
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = _aten.max_pool2d_with_indices_backward(gradient, outputs, *_POOL, indices)
        weight_gradient = _convolution_backward(gradient, inputs, kernel, of=(False, True))[1]
        gradient = gradient.contiguous()
        maps_gradient = _convolution_backward(gradient, maps, weight, of=(True, False))[0]
        return maps_gradient, weight_gradient, bias_gradient


@functools.cache
def _shifts() -> Tensor:
    """[25, 4 * 36]: puts a 5x5 kernel into a 6x6 one at each of the places of a 2x2 window."""
    places = torch.zeros(5, 5, 2, 2, 6, 6)
    for i in range(5):
        for j in range(5):
            for down in range(2):
                for right in range(2):
                    places[i, j, down, right, i + down, j + right] = 1
    return places.view(25, 4 * 36)


def _convolution_backward(
    gradient: Tensor, inputs: Tensor, weight: Tensor, *, of: tuple[bool, bool],
    stride: int = 1, padding: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of a convolution's inputs and weight, those that are asked for."""
    sizes = ([stride] * 2, [padding] * 2, [1, 1])
    return _aten.convolution_backward(
        gradient, inputs, weight, None, *sizes, False, [0, 0], 1, [*of, False]
    )
