"""LeNet-5, with max pools and ReLU: 61,706 parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist.model.initialisation import seeded

PARAMETERS = 61_706


class LeNet5(nn.Module):
    """LeNet-5: logits [n, 10] of pixels [n, 1, 28, 28] in [0, 1].

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    1998, section II.B; layers carry the paper's names. Here C3 sees all maps of S2, S2 and S4 take
    the maximum, ReLU follows C1, C3, C5 and F6, and OUT is linear. `mean` and `std` standardise the
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
        """Logits [n, 10] of pixels [n, 1, 28, 28].

        C5 covers its whole 5x5 input, so it is a matrix product.
        """
        _, x = self.feature_maps(pixels)
        x = F.relu(_linear(x.flatten(1), self.C5.weight.flatten(1), self.C5.bias))
        x = F.relu(_linear(x, self.F6.weight, self.F6.bias))
        return _linear(x, self.OUT.weight, self.OUT.bias)

    def feature_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of S2 [n, 6, 14, 14] and S4 [n, 16, 5, 5], after ReLU.

        ReLU comes after the max pools: the result is the same, from a quarter of the values.
        """
        s2 = F.relu(F.max_pool2d(self.C1(self.standardised(pixels)), 2))
        return s2, F.relu(F.max_pool2d(self.C3(s2), 2))

    def standardised(self, pixels: Tensor) -> Tensor:
        """The pixels minus their mean, in standard deviations."""
        return pixels if (self.mean, self.std) == (0, 1) else (pixels - self.mean) / self.std


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`. On a GPU in two kernels, because torch.func makes three of F.linear."""
    assert bias is not None
    return F.linear(x, weight, bias) if x.device.type == "cpu" else x @ weight.T + bias


def build(seed: int, mean: float, std: float) -> LeNet5:
    """LeNet-5 with torch's default initialisation, a function of the seed, on the CPU."""
    with seeded(seed):
        return LeNet5(mean, std)
