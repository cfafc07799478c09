"""How far a model's probabilities can be trusted, and one number that corrects them.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BINS = 15
_LEAST, _GREATEST = 0.05, 20.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The best number to divide logits [n, 10] by before the softmax (section 4.2).

    It minimises the cross-entropy of the labels [n]. It is found by golden-section search over its
    logarithm, where the loss has a single minimum.
    """
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in (_LEAST, _GREATEST))
    ratio = (5**0.5 - 1) / 2

    def loss(log_temperature: Tensor) -> Tensor:
        return F.cross_entropy(logits.double() / log_temperature.exp(), labels)

    while high - low > 1e-5:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(((low + high) / 2).exp())


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """The mean gap between confidence and accuracy over 15 equal bins, in [0, 1] (section 3).

    It takes probabilities [n, 10] and labels [n].
    """
    confidence, prediction = probabilities.max(1)
    gap = (prediction == labels).double() - confidence.double()
    bins = (confidence * _BINS).long().clamp_(max=_BINS - 1)
    sums = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, gap)
    return float(sums.abs().sum() / len(labels))
