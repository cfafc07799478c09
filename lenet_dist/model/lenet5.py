"""LeNet-5, with max-pooling and ReLU: 61,706 parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist.model import backpropagation
from lenet_dist.model.initialisation import seeded

PARAMETERS = 61_706
_IMAGES_AT_ONCE = 256
"""What the layers make of more images does not fit into a CPU's caches."""


class LeNet5(nn.Module):
    """Logits [n, 10] of pixels [n, 1, 28, 28] in [0, 1].

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    1998, section II.B; layers carry the paper's names. Here C3 sees all maps of S2, pooling is by
    maximum, ReLU follows C1, C3, C5 and F6, and OUT is linear. `mean` and `std` standardise the
    pixels; they are not parameters, so that the state_dict holds weights alone.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean = mean
        self.std = std
        self.C1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
        self.C3 = nn.Conv2d(6, 16, kernel_size=5)
        self.C5 = nn.Conv2d(16, 120, kernel_size=5)
        self.F6 = nn.Linear(120, 84)
        self.OUT = nn.Linear(84, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [n, 10]. C5 covers its whole 5x5 input, so it is a matrix product."""
        if _is_plain_on_cpu(pixels):
            images, parameters = self.standardised(pixels), list(self.parameters())
            if torch.is_grad_enabled():
                return backpropagation.Logits.apply(images, *parameters)
            blocks = images.chunk(max(1, -(-len(images) // _IMAGES_AT_ONCE)))
            return torch.cat([backpropagation.forward(block, parameters)[0] for block in blocks])
        _, x = self.feature_maps(pixels)
        x = F.relu(F.linear(x.flatten(1), self.C5.weight.flatten(1), self.C5.bias))
        x = F.relu(self.F6(x))
        return self.OUT(x)

    def feature_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of S2 [n, 6, 14, 14] and S4 [n, 16, 5, 5], after ReLU.

        ReLU comes after max-pooling: the result is the same, from a quarter of the values.
        """
        x = _channels_last(self.standardised(pixels))
        x = F.conv2d(x, _channels_last(self.C1.weight), self.C1.bias, padding=2)
        s2 = F.relu(F.max_pool2d(x, 2))
        x = F.conv2d(s2, _channels_last(self.C3.weight), self.C3.bias)
        return s2, F.relu(F.max_pool2d(x, 2))

    def standardised(self, pixels: Tensor) -> Tensor:
        """The pixels minus their mean, in standard deviations."""
        return pixels if (self.mean, self.std) == (0, 1) else (pixels - self.mean) / self.std


def build(seed: int, mean: float, std: float) -> LeNet5:
    """LeNet-5 with torch's default initialisation, a function of the seed, on the CPU."""
    with seeded(seed):
        return LeNet5(mean, std)


def _is_plain_on_cpu(x: Tensor) -> bool:
    """Whether the written-out passes fit: no autocast, no compiler, no gradient of the pixels."""
    is_float_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    is_changed = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return is_float_on_cpu and not x.requires_grad and not is_changed


def _channels_last(x: Tensor) -> Tensor:
    """The tensor with its channels innermost in memory, and strides that say so.

    `contiguous` leaves a single channel's strides as they are, but convolutions go by strides.
    """
    if x.shape[1] == 1:
        return x.contiguous().view(x.shape[0], *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)
