"""Muon: a hidden layer's matrix moves by its momentum, with all its singular values made equal."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lenet_dist.train.threads import has_bits_of_one, one_thread

_adamw_step = inspect.unwrap(torch.optim.AdamW.step)
"""Without wrappers that import torch's compiler, like those in optimizer.py."""


class Matrix(NamedTuple):
    """A matrix [rows, columns] within the flat weights, and its place there."""

    place: slice
    rows: int
    columns: int


def hidden_matrices(parameters: Iterable[nn.Parameter]) -> list[Matrix]:
    """The weights of all layers but the first and the last; a convolution's kernel is a row."""
    matrices, start = [], 0
    for parameter in parameters:
        place = slice(start, start := start + parameter.numel())
        if parameter.dim() > 1:
            rows = len(parameter)
            matrices.append(Matrix(place, rows, parameter.numel() // rows))
    return matrices[1:-1]


class Muon(torch.optim.AdamW):
    """AdamW of flat weights [P], with Muon's update for their `matrices`.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The momentum is
    AdamW's own. The step has the length that Liu et al., "Muon is scalable for LLM training", 2025,
    section 2.2, give it: AdamW's learning rate and weight decay are then right for both.
    """

    matrices: list[Matrix]
    _needs_one_thread: bool | None = None

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the flat weights from their gradient."""
        group = self.param_groups[0]
        (weights,) = group["params"]
        lr, momentum_decay = group["lr"], group["betas"][0]
        before = [weights[matrix.place].clone() for matrix in self.matrices]
        _adamw_step(self)
        momentum = self.state[weights]["exp_avg"]
        is_skipped = getattr(self, "found_inf", None)  # A gradient scaler's.
        with self._threads(weights.device):
            for (place, rows, columns), old in zip(self.matrices, before, strict=True):
                ahead = weights.grad[place].lerp(momentum[place], momentum_decay)
                direction = orthogonalised(ahead.view(rows, columns)).flatten()
                length = lr * 0.2 * max(rows, columns) ** 0.5
                new = old * (1 - lr * group["weight_decay"]) - direction * length
                if is_skipped is not None:
                    new = torch.where(is_skipped > 0, old, new)
                weights[place] = new

    def _threads(self, device: torch.device) -> AbstractContextManager[None]:
        """One thread, if several would give other bits. It is tried at the first step."""
        if self._needs_one_thread is None:
            is_sound = device.type != "cpu" or has_bits_of_one(self._directions_of_noise)
            self._needs_one_thread = not is_sound
        return one_thread() if self._needs_one_thread else nullcontext()

    def _directions_of_noise(self) -> Tensor:
        noise = torch.Generator().manual_seed(0)
        shapes = ((matrix.rows, matrix.columns) for matrix in self.matrices)
        return torch.cat(
            [orthogonalised(torch.randn(*shape, generator=noise)).flatten() for shape in shapes]
        )


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix [n, m] with singular values between 0.7 and 1.2: five Newton-Schulz iterations.

    In float32: torch.optim.Muon's are in bfloat16, for matrices that are parameters of their own.
    """
    x = matrix / (torch.linalg.vector_norm(matrix) + 1e-7)
    is_tall = len(x) > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if is_tall else x
