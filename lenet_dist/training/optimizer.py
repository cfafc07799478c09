"""The optimizers, by name; their state, by the parameters' names."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lenet_dist.config import Optimizer

T = TypeVar("T", bound=torch.optim.Optimizer)


def _without_compiler(kind: type[T]) -> type[T]:
    """The same optimizer, without the wrappers that import torch's compiler at their first call.

    That import takes longer than everything else that a start does after `import torch`.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), plain)


class Matrix(NamedTuple):
    """A matrix [rows, columns] within the flat weights, and its place there."""

    place: slice
    rows: int
    columns: int


def hidden_matrices(model: nn.Module) -> list[Matrix]:
    """The weights of all layers but the first and the last; a convolution's kernel is a row."""
    matrices, start = [], 0
    for parameter in model.parameters():
        place = slice(start, start := start + parameter.numel())
        if parameter.dim() > 1:
            rows = len(parameter)
            matrices.append(Matrix(place, rows, parameter.numel() // rows))
    return matrices[1:-1]


_AdamW: Any = _without_compiler(torch.optim.AdamW)


class Muon(_AdamW):  # type: ignore[misc]
    """AdamW, but the hidden layers' matrices move by their momentum with its singular values made
    equal, so that rare directions are learned as fast as frequent ones.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. The momentum is
    AdamW's own. The step has the length that Liu et al., "Muon is scalable for LLM training", 2025,
    section 2.2, give it: AdamW's learning rate and weight decay are then right for both.
    """

    matrices: list[Matrix]

    @torch.no_grad()
    def step(self) -> None:
        """Update the flat weights from their gradient."""
        group = self.param_groups[0]
        lr, momentum_decay = group["lr"], group["betas"][0]
        weights = weights_of(self)
        assert weights.grad is not None
        before = [weights[matrix.place].clone() for matrix in self.matrices]
        super().step()
        momentum = self.state[weights]["exp_avg"]
        is_skipped = getattr(self, "found_inf", None)  # A gradient scaler's.
        for (place, rows, columns), old in zip(self.matrices, before, strict=True):
            ahead = weights.grad[place].lerp(momentum[place], momentum_decay)
            direction = orthogonalised(ahead.view(rows, columns)).flatten()
            length = lr * 0.2 * max(rows, columns) ** 0.5
            new = old * (1 - lr * group["weight_decay"]) - direction * length
            weights[place] = new if is_skipped is None else torch.where(is_skipped > 0, old, new)


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix [n, m] with singular values between 0.7 and 1.2: five Newton-Schulz iterations."""
    x = matrix / (torch.linalg.vector_norm(matrix) + 1e-7)
    is_tall = len(x) > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if is_tall else x


_ADAMS: dict[str, Any] = {
    "adam": _without_compiler(torch.optim.Adam), "adamw": _AdamW, "muon": Muon
}  # fmt: skip


def build(
    config: Optimizer,
    model: nn.Module,
    weights: nn.Parameter,
    *,
    capturable: bool = False,
    skips: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer of the model's flat weights [P], fused: one kernel for the whole update.

    `capturable`: its step can be part of a CUDA graph. `skips`: a gradient scaler may have it skip
    steps.
    """
    lr, weight_decay = config.lr, config.weight_decay
    if config.name == "sgd":
        sgd = _without_compiler(torch.optim.SGD)(
            [weights], lr, momentum=config.momentum, weight_decay=weight_decay, fused=True
        )
        if skips and config.momentum:
            # A first step that is skipped would leave torch's own buffer as it was allocated.
            sgd.state[weights]["momentum_buffer"] = torch.zeros_like(weights)
        return sgd
    adam = _ADAMS[config.name](
        [weights], lr, betas=(config.beta1, config.beta2), weight_decay=weight_decay,
        fused=True, capturable=capturable,
    )  # fmt: skip
    # Otherwise it warns of steps that are taken uncaptured, as the first few are.
    adam._warned_capturable_if_run_uncaptured = True
    if isinstance(adam, Muon):
        adam.matrices = hidden_matrices(model)
    return adam


def weights_of(optimizer: torch.optim.Optimizer) -> nn.Parameter:
    """The flat weights that the optimizer updates."""
    return optimizer.param_groups[0]["params"][0]


def tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state, each parameter's part under the parameter's name."""
    sizes = [p.numel() for p in model.parameters()]
    named: dict[str, Tensor] = {}
    for key, tensor in optimizer.state[weights_of(optimizer)].items():
        if tensor is None:  # SGD without momentum has such a state.
            continue
        parts = tensor.split(sizes) if tensor.dim() else [tensor] * len(sizes)
        for (name, parameter), part in zip(model.named_parameters(), parts, strict=True):
            named[f"{name}.{key}"] = part.view_as(parameter) if tensor.dim() else part.clone()
    return named


def load(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore a state that `tensors` gave."""
    names = [name for name, _ in model.named_parameters()]
    first = f"{names[0]}."
    keys = [name.removeprefix(first) for name in tensors if name.startswith(first)]
    state = {}
    for key in keys:
        parts = [tensors[f"{name}.{key}"] for name in names]
        state[key] = torch.cat([part.flatten() for part in parts]) if parts[0].dim() else parts[0]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: state} if state else {}, "param_groups": groups})
