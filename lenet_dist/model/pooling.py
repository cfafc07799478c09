"""C1 with S2 and C3 with S4: convolution, max-pooling and ReLU, and their gradients.

The same functions and gradients as torch's own three operations in a row, from plain tensor
operations; on a CPU at about twice the speed. docs/benchmarks/README.md has the figures.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_aten = torch.ops.aten
_threshold_backward = _aten.threshold_backward.default
_max_pool = _aten.max_pool2d_with_indices.default
_convolution_backward = _aten.convolution_backward.default
_max_pool_backward = _aten.max_pool2d_with_indices_backward.default
_POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)
"""Kernel, stride, padding, dilation and ceil mode of S2 and S4."""
_BELOW_ZERO = -torch.finfo(torch.float32).tiny


class C1(NamedTuple):
    """What C1 and S2 leave for the backward pass; `maps` [n, 6, 14, 14] are S2's, after ReLU."""

    images: Tensor
    outputs: Tensor
    maps: Tensor


class C3(NamedTuple):
    """What C3 and S4 leave for the backward pass; `maps` [n, 16, 5, 5] are S4's, after ReLU."""

    s2: Tensor
    inputs: Tensor
    outputs: Tensor
    indices: Tensor
    maps: Tensor


def c1_s2(images: Tensor, weight: Tensor, bias: Tensor) -> C1:
    """C1 and S2 on images [n, 1, 28, 28].

    The four outputs that a pooling window compares are four channels of one wider convolution with
    stride 2. Its 24 channels fill the processor's vectors, which C1's 6 do not, and the maximum is
    taken over whole blocks of memory.
    """
    wide = torch.bmm(weight.view(6, 25).expand(4, 6, 25), _shifts(weight.device)).view(24, 1, 6, 6)
    outputs = torch.conv2d(images, wide, bias.expand(4, 6).reshape(24), stride=2, padding=2)
    first, second, third, fourth = outputs.chunk(4, 1)
    maps = torch.maximum(first, second)
    torch.maximum(maps, third, out=maps)
    torch.maximum(maps, fourth, out=maps)
    maps.clamp_(min=0)
    return C1(images, outputs, maps)


def c1_s2_gradient(gradient: Tensor, passed: C1, shards: int | None) -> tuple[Tensor, Tensor]:
    """The gradients of C1's weight [shards, 6, 1, 5, 5] and bias [shards, 6].

    `gradient` is that of S2's maps. The images are `shards` equal shards in a row; for None see
    `weight_gradients`.
    """
    rest = _threshold_backward(gradient, passed.maps, 0)
    bias_gradient = rest.view(shards or 1, -1, 6, 14 * 14).sum((1, 3))
    output_gradient = torch.empty_like(passed.outputs)
    # Of equal outputs the first gets the gradient, as in torch's pooling.
    *earlier, last = zip(passed.outputs.chunk(4, 1), output_gradient.chunk(4, 1), strict=True)
    for output, share in earlier:
        share.copy_(_threshold_backward(rest, output - passed.maps, _BELOW_ZERO))
        rest -= share
    last[1].copy_(rest)
    wide = weight_gradients(output_gradient, passed.images, (6, 6), shards, stride=2, padding=2)
    first, second, third, fourth = wide.unflatten(1, (4, 6)).unbind(1)
    weight_gradient = first[..., :5, :5] + second[..., :5, 1:]
    weight_gradient += third[..., 1:, :5]
    weight_gradient += fourth[..., 1:, 1:]
    return weight_gradient, bias_gradient


def c3_s4(s2: Tensor, weight: Tensor, bias: Tensor) -> C3:
    """C3 and S4 on S2's maps [n, 6, 14, 14].

    Each of the three convolutions runs in the memory layout in which oneDNN is fastest at it. The
    bias's gradient is summed after pooling, over a quarter of the values.
    """
    inputs = s2.contiguous(memory_format=torch.channels_last)
    kernel = weight.contiguous(memory_format=torch.channels_last)
    outputs = torch.conv2d(inputs, kernel, bias)
    maps, indices = _max_pool(outputs, *_POOL)
    maps.clamp_(min=0)
    return C3(s2, inputs, outputs, indices, maps)


def c3_s4_gradient(
    gradient: Tensor, passed: C3, weight: Tensor, shards: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of S2's maps, C3's weight [shards, 16, 6, 5, 5] and its bias [shards, 16].

    `gradient` is that of S4's maps; `shards` is as for c1_s2_gradient.
    """
    gradient = _threshold_backward(gradient, passed.maps, 0)
    bias_gradient = gradient.view(shards or 1, -1, 16, 5 * 5).sum((1, 3))
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    gradient = _max_pool_backward(gradient, passed.outputs, *_POOL, passed.indices)
    weight_gradient = weight_gradients(gradient, passed.inputs, (5, 5), shards)
    sizes = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    s2_gradient = _convolution_backward(
        gradient.contiguous(), passed.s2, weight, None, *sizes, [True, False, False]
    )[0]
    return s2_gradient, weight_gradient, bias_gradient


def weight_gradients(
    gradient: Tensor, inputs: Tensor, kernel_size: tuple[int, int], shards: int | None,
    *, stride: int = 1, padding: int = 0,
) -> Tensor:  # fmt: skip
    """A convolution's weight gradient for each of `shards` equal shards in a row [shards, out, in,
    kh, kw], given the gradient of its outputs [n, out, h, w] and its inputs [n, in, h, w].

    A shard's bits are the same whatever the number of shards and threads. None: one gradient of
    all images together [1, ...], without that promise but a little faster.
    """
    kernel = inputs.new_empty(gradient.shape[1], inputs.shape[1], *kernel_size)
    sizes = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0])
    of = [False, True, False]
    if shards is None:
        return _convolution_backward(gradient, inputs, kernel, None, *sizes, 1, of)[1][None]
    if inputs.device.type != "cpu":
        return weight_gradients_by_product(gradient, inputs, kernel_size, shards, stride, padding)
    groups = _groups(shards)
    outputs, inputs = (_as_groups(t, shards, groups) for t in (gradient, inputs))
    kernel = kernel.repeat(groups, 1, 1, 1)
    found = _convolution_backward(outputs, inputs, kernel, None, *sizes, groups, of)[1]
    return found.unflatten(0, (groups, -1))[:shards]


def _groups(shards: int) -> int:
    """How many groups of channels hold the shards, one each, in a single call.

    oneDNN has other kernels for one group and, where there is no AVX-512, for three. It splits a
    group's images over threads unless there are equally many groups for each. More groups than
    shards avoid all of it.
    """
    threads = torch.get_num_threads()
    groups = -(-max(2, shards) // threads) * threads
    return groups if groups != 3 else groups + threads


def weight_gradients_by_product(
    gradient: Tensor, inputs: Tensor, kernel_size: tuple[int, int], shards: int, stride: int,
    padding: int,
) -> Tensor:  # fmt: skip
    """The same, as one batched product of the gradient with the patches that the kernel saw.

    For a GPU, where it depends on cuDNN's version what it makes of groups of channels.
    """
    height, width = kernel_size
    padded = F.pad(inputs, [padding] * 4)
    patches = padded.unfold(2, height, stride).unfold(3, width, stride)
    patches = patches.unflatten(0, (shards, -1)).permute(0, 1, 3, 4, 2, 5, 6)
    outputs = gradient.unflatten(0, (shards, -1)).transpose(1, 2)
    products = torch.bmm(outputs.flatten(2), patches.flatten(1, 3).flatten(2))
    return products.unflatten(2, (inputs.shape[1], height, width))


def _as_groups(images: Tensor, shards: int, groups: int) -> Tensor:
    """[shards * n, c, h, w] as [n, groups * c, h, w], channels innermost in memory.

    Groups beyond the shards repeat the first shard.
    """
    of_shards = images.unflatten(0, (shards, -1))
    if groups > shards:
        of_shards = torch.cat([of_shards, of_shards[:1].expand(groups - shards, -1, -1, -1, -1)])
    return of_shards.permute(1, 3, 4, 0, 2).contiguous().flatten(3).permute(0, 3, 1, 2)


@functools.cache
def _shifts(device: torch.device) -> Tensor:
    """[4, 25, 36]: puts a 5x5 kernel into a 6x6 one, at each place of a 2x2 window."""
    places = torch.zeros(2, 2, 5, 5, 6, 6)
    for i in range(5):
        for j in range(5):
            for down in range(2):
                for right in range(2):
                    places[down, right, i, j, i + down, j + right] = 1
    return places.view(4, 25, 36).to(device)
