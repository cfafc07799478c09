"""The state that training changes from step to step and that a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.amp import GradScaler

from lenet_dist.config import Config
from lenet_dist.machine.clock import Clock
from lenet_dist.model.ema import MovingAverage
from lenet_dist.model.flat import flatten
from lenet_dist.run.checkpoint import Checkpoint
from lenet_dist.training import optimizer as optimizers
from lenet_dist.training.window import Window

_AVERAGE_PREFIX = "average."

_kept: list[nn.Module] = []
"""What was wrapped, until the process ends. DDP's destructor in torch 2.11 holds the interpreter
while it waits for gloo's threads, and these may be waiting for the interpreter."""


@dataclass
class TrainState:
    """`wrapped` is the model as Accelerate prepared it: in DDP, under autocast. `step` counts the
    optimizer steps done."""

    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    average: MovingAverage | None
    window: Window
    clock: Clock
    step: int = 0

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to publish: the running mean if there is one."""
        return self.average.means if self.average else dict(self.model.state_dict())

    def checkpoint(self, record: dict[str, Any]) -> Checkpoint:
        """The whole state, with the circumstances that `record` tells. Settle the window first."""
        averages = self.average.means if self.average else {}
        optimizer = optimizers.tensors(self.optimizer, self.model)
        optimizer |= {_AVERAGE_PREFIX + name: mean for name, mean in averages.items()}
        state = {
            "step": self.step,
            **record,
            "window": self.window.state(),
            "seconds": self.clock.read(),
            "scaler": self.scaler.state_dict() or None,
        }
        return Checkpoint(_on_cpu(dict(self.model.state_dict())), _on_cpu(optimizer), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state in which the run gave this checkpoint.

        What it lacks, because that run had another optimizer or no running mean, begins anew.
        """
        self.step = checkpoint.state["step"]
        self.model.load_state_dict(checkpoint.model)
        tensors = checkpoint.optimizer
        optimizers.load(self.optimizer, self.model, tensors)
        if self.average:
            present = checkpoint.model
            self.average.load({
                name: tensors.get(_AVERAGE_PREFIX + name, present[name])
                for name in self.average.means
            })  # fmt: skip
        if self.scaler.is_enabled() and checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.window.load(checkpoint.state["window"])
        self.clock.add(checkpoint.state["seconds"])


def build(
    model: nn.Module, config: Config, accelerator: Accelerator, clock: Clock, *, capturable: bool
) -> TrainState:
    """The state before the first step, of a model that is on its device. A collective.

    `capturable`: its steps can be part of a CUDA graph.
    """
    if config.compute.compile:
        model.compile()
    # Accelerate would import DTensor to place the model, which takes half a second.
    wrapped = accelerator.prepare(model, device_placement=[False])
    _kept.append(wrapped)
    # After DDP, which moves the parameters.
    skips = accelerator.scaler is not None
    weights = flatten(model)
    optimizer = optimizers.build(
        config.optimizer, model, weights, capturable=capturable, skips=skips
    )
    return TrainState(
        model=model,
        wrapped=wrapped,
        # Unwrapped: Accelerate's own step looks for optional packages at every call.
        optimizer=accelerator.prepare(optimizer).optimizer,
        scaler=accelerator.scaler or GradScaler(enabled=False),
        average=MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None,
        window=Window(accelerator, stats_are_global=config.train.reduction == "fixed"),
        clock=clock,
    )


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
