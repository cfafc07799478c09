"""The optimizers, by name; their state, by the parameters' names."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lenet_dist.config import Optimizer
from lenet_dist.training.muon import Muon, hidden_matrices

_ADAMS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "muon": Muon,
}

_OF_ADAM, _OF_SGD = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}
"""The names of what an optimizer keeps of a weight."""

T = TypeVar("T", bound=torch.optim.Optimizer)


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
    betas = (config.beta1, config.beta2)
    adam = _without_compiler(_ADAMS[config.name])(
        [weights], lr, betas=betas, weight_decay=weight_decay, fused=True, capturable=capturable
    )
    # Otherwise it warns of steps that are taken uncaptured, as the first few are.
    adam._warned_capturable_if_run_uncaptured = True
    if isinstance(adam, Muon):
        adam.matrices = hidden_matrices(model)
    return adam


def _without_compiler(kind: type[T]) -> type[T]:
    """The same optimizer, without the wrappers that import torch's compiler at their first call.

    That import takes longer than everything else that a start does after `import torch`.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), plain)


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
    """Restore a state that `tensors` gave. If it is another kind's, this one begins without."""
    names = [name for name, _ in model.named_parameters()]
    first = f"{names[0]}."
    keys = {name.removeprefix(first) for name in tensors if name.startswith(first)}
    if keys != (_OF_SGD if isinstance(optimizer, torch.optim.SGD) else _OF_ADAM):
        return
    state = {}
    for key in sorted(keys):
        parts = [tensors[f"{name}.{key}"] for name in names]
        state[key] = torch.cat([part.flatten() for part in parts]) if parts[0].dim() else parts[0]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})
