"""The optimizers, by name or a task's own; their state, by the parameters' names."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lenet_dist.config import Optimizer
from lenet_dist.exits import RequestError
from lenet_dist.model.flat import pieces
from lenet_dist.train.muon import Muon, hidden_matrices

_ADAMS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "muon": Muon,
}

_OF_ADAM, _OF_SGD = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}
"""The names of what an optimizer keeps of a weight."""

T = TypeVar("T", bound=torch.optim.Optimizer)


def build_optimizer(
    config: Optimizer,
    trainable: dict[str, nn.Parameter],
    weights: nn.Parameter,
    *,
    capturable: bool = False,
    skips: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer of the flat weights [P] of the trainable parameters, fused: one kernel for the
    whole update.

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
        adam.matrices = hidden_matrices(trainable.values())
    return adam


def _without_compiler(kind: type[T]) -> type[T]:
    """An optimizer class without the wrappers that import torch's compiler at their first call.

    That import takes longer than everything else that a start does after `import torch`.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step: Any = torch.no_grad()(inspect.unwrap(kind.step))
    step.hooked = True  # Otherwise torch wraps it again, for its profiler.
    plain["step"] = step
    return type(kind.__name__, (kind,), plain)


def check_own_optimizer(optimizer: object, trainable: dict[str, nn.Parameter]) -> None:
    """Raise RequestError if a task's optimizer is none, or leaves out a trainable parameter."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RequestError(
            f"the task's optimizer gives no torch.optim.Optimizer but {type(optimizer).__name__}"
        )
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trainable.items():
        if id(parameter) not in updated:
            raise RequestError(
                f"the task's optimizer leaves out the parameter {name}: put it into a group, or set"
                " its requires_grad to False in the model"
            )


def state_tensors(
    optimizer: torch.optim.Optimizer, trainable: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state, each parameter's part under the parameter's name.

    Raises RequestError if a task's own optimizer keeps something else than tensors.
    """
    names = {id(parameter): name for name, parameter in trainable.items()}
    named: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value is None:  # SGD without momentum has such a state.
                continue
            if not isinstance(value, Tensor):
                raise RequestError(
                    f"{type(optimizer).__name__} keeps {key!r} as {type(value).__name__}, and a"
                    " checkpoint holds tensors alone: use another optimizer"
                )
            if id(parameter) in names:
                named[f"{names[id(parameter)]}.{key}"] = value
                continue
            # Flat weights: each parameter gets its piece.
            parts = pieces(value, [*trainable.values()]) if value.dim() else None
            for number, name in enumerate(trainable):
                named[f"{name}.{key}"] = parts[number] if parts else value.clone()
    return named


def load_state(
    optimizer: torch.optim.Optimizer,
    trainable: dict[str, nn.Parameter],
    tensors: dict[str, Tensor],
) -> None:
    """Restore what `state_tensors` gave. If it is another kind's state, this one begins without."""
    saved: dict[str, dict[str, Tensor]] = {name: {} for name in trainable}
    for entry, tensor in tensors.items():
        name, _, key = entry.rpartition(".")
        if name in saved:
            saved[name][key] = tensor
    names = {id(parameter): name for name, parameter in trainable.items()}
    state: dict[int, dict[str, Tensor]] = {}
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    for number, parameter in enumerate(parameters):
        if id(parameter) in names:
            state[number] = saved[names[id(parameter)]]
            continue
        parts = list(saved.values())
        if set(parts[0]) != (_OF_SGD if isinstance(optimizer, torch.optim.SGD) else _OF_ADAM):
            return
        state[number] = {
            key: torch.cat([part[key].flatten() for part in parts]) if first.dim() else first
            for key, first in parts[0].items()
        }
    groups = optimizer.state_dict()["param_groups"]
    state = {number: of_parameter for number, of_parameter in state.items() if of_parameter}
    optimizer.load_state_dict({"state": state, "param_groups": groups})
