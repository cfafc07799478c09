"""Steps that are rehearsed before the first one: taken in full, and undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lenet_dist.train.state import TrainState

REHEARSED = -1
"""The number of a step that is rehearsed. It is none of the run's, and never audited."""


@contextmanager
def rehearsal(state: TrainState) -> Iterator[None]:
    """At its end every tensor of the state has the bits that it began with, in the same memory: a
    graph that was captured meanwhile reads and writes it there."""
    if state.scaler.is_enabled():
        state.scaler.scale(state.flat.new_zeros(()))  # Makes its tensors.
    before = {id(tensor): tensor.detach().clone() for tensor in _tensors(state)}
    yield
    with torch.no_grad():
        for tensor in _tensors(state):
            if id(tensor) in before:
                tensor.copy_(before[id(tensor)])
            else:  # The optimizer made it at the first step.
                tensor.zero_()
    state.drop_gradient()


def is_undone_by_zeros(optimizer: torch.optim.Optimizer) -> bool:
    """Whether all that an optimizer makes at its first step begins as zeros."""
    return isinstance(optimizer, torch.optim.Adam) or all(
        key in optimizer.state for group in optimizer.param_groups for key in group["params"]
    )


def _tensors(state: TrainState) -> list[Tensor]:
    """Those that a step changes: always the same objects."""
    tensors = [state.flat, *state.model.buffers()]
    if state.ema:
        tensors.append(state.ema.mean)
    kept = [value for of_one in state.optimizer.state.values() for value in of_one.values()]
    if state.scaler.is_enabled():
        kept += [state.scaler._scale, state.scaler._growth_tracker]
    return tensors + [value for value in kept if isinstance(value, Tensor)]
