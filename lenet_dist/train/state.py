"""The state that training changes from step to step and that a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.amp import GradScaler

from lenet_dist.config import Config
from lenet_dist.model.ema import Ema
from lenet_dist.model.flat import flatten, on_cpu, pieces
from lenet_dist.run_dir.checkpoint import Checkpoint
from lenet_dist.train.clock import Clock
from lenet_dist.train.metrics import TrainMetrics
from lenet_dist.train.optimizer import (
    build_optimizer,
    check_own_optimizer,
    load_state,
    state_tensors,
)
from lenet_dist.train.task import Task
from lenet_dist.train.task_check import check_model

_AVERAGE_PREFIX = "average."

_kept: list[nn.Module] = []
"""What was wrapped, until the process ends. DDP's destructor in torch 2.11 holds the interpreter
while it waits for gloo's threads, and these may be waiting for the interpreter."""


@dataclass
class TrainState:
    """`prepared` is the model as Accelerate prepared it: under autocast, and in DDP if that is to
    reduce. `trainable` are the parameters that are trained, by name: views of `flat` [P]. `step`
    counts the optimizer steps done."""

    model: nn.Module
    prepared: nn.Module
    trainable: dict[str, nn.Parameter]
    flat: nn.Parameter
    optimizer: torch.optim.Optimizer
    peak_lrs: list[float]
    """The peak learning rate of each of the optimizer's parameter groups."""
    scaler: GradScaler
    ema: Ema | None
    metrics: TrainMetrics
    clock: Clock
    step: int = 0

    def set_gradient(self, gradient: Tensor) -> None:
        """Let the optimizer see the gradient [P], whichever parameters it updates."""
        self.flat.grad = gradient
        if self.optimizer.param_groups[0]["params"][0] is not self.flat:
            parameters = list(self.trainable.values())
            for parameter, piece in zip(parameters, pieces(gradient, parameters), strict=True):
                parameter.grad = piece

    def drop_gradient(self) -> None:
        """Forget the last step's gradient."""
        self.flat.grad = None
        self.optimizer.zero_grad()

    def weights_to_evaluate(self) -> dict[str, Tensor]:
        """The weights to evaluate and to publish, by name, with buffers and frozen parameters.

        Of the trained ones it is the moving average if there is one.
        """
        weights = dict(self.model.state_dict())
        if self.ema:
            means = self.means()
            of = {id(parameter): means[name] for name, parameter in self.trainable.items()}
            for name, parameter in self.model.named_parameters(remove_duplicate=False):
                weights[name] = of.get(id(parameter), weights[name])
        return weights

    def means(self) -> dict[str, Tensor]:
        """The moving average of each trainable parameter, by name; without one, nothing."""
        if self.ema is None:
            return {}
        parts = pieces(self.ema.mean, list(self.trainable.values()))
        return dict(zip(self.trainable, parts, strict=True))

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Take these weights instead of those of the seed, before the first step."""
        self.model.load_state_dict(weights)
        if self.ema:
            self.ema.mean.copy_(self.flat.detach())

    def checkpoint(self, record: dict[str, Any]) -> Checkpoint:
        """The whole state, with the circumstances that `record` tells. Flush the metrics first."""
        optimizer = state_tensors(self.optimizer, self.trainable)
        optimizer |= {_AVERAGE_PREFIX + name: mean for name, mean in self.means().items()}
        state = {
            "step": self.step,
            **record,
            "window": self.metrics.state(),
            "seconds": self.clock.read(),
            "scaler": self.scaler.state_dict() or None,
        }
        return Checkpoint(on_cpu(dict(self.model.state_dict())), on_cpu(optimizer), state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Return to the state in which the run gave this checkpoint.

        What it lacks, because that run had another optimizer or no moving average, begins anew.
        """
        self.step = checkpoint.state["step"]
        self.model.load_state_dict(checkpoint.model)
        tensors = checkpoint.optimizer
        load_state(self.optimizer, self.trainable, tensors)
        for name, mean in self.means().items():
            mean.copy_(tensors.get(_AVERAGE_PREFIX + name, checkpoint.model[name]))
        if self.scaler.is_enabled() and checkpoint.state["scaler"]:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.metrics.load(checkpoint.state["window"])
        self.clock.add(checkpoint.state["seconds"])


def build_state(
    task: Task, config: Config, accelerator: Accelerator, clock: Clock, *, capturable: bool
) -> TrainState:
    """The state before the first step, on its device. A collective.

    `capturable`: its steps can be part of a CUDA graph. Raises RequestError if the model or the
    optimizer of a task can't be trained here.
    """
    model = task.build(config).to(accelerator.device)
    check_model(model)
    reduces_by_ddp = config.train.reduction == "ddp"
    if config.compute.compile:
        # By timing, each process might choose other kernels, and audits would find other bits.
        untimed = config.compute.deterministic and accelerator.device.type != "cpu"
        model.compile(options={"deterministic": True} if untimed else None)
    # Under `fixed` nothing of DDP is used but that all begin with the same weights. Accelerate
    # would import DTensor to place the model, which takes half a second.
    prepared = accelerator.prepare_model(
        model, device_placement=False, evaluation_mode=not reduces_by_ddp
    )
    _kept.append(prepared)
    # After DDP, which moves the parameters.
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    flat = flatten(list(trainable.values()))
    for tensor in (flat.data, *model.buffers()):
        broadcast(tensor)
    if task.optimizer is None:
        optimizer = build_optimizer(
            config.optimizer,
            trainable,
            flat,
            capturable=capturable,
            skips=accelerator.scaler is not None,
        )
    else:
        optimizer = task.optimizer(config, trainable.items())
        check_own_optimizer(optimizer, trainable)
    decay = config.train.ema_decay
    return TrainState(
        model=model,
        prepared=prepared,
        trainable=trainable,
        flat=flat,
        # Unwrapped: Accelerate's own step looks for optional packages at every call.
        optimizer=accelerator.prepare(optimizer).optimizer,
        peak_lrs=[float(group["lr"]) for group in optimizer.param_groups],
        scaler=accelerator.scaler or GradScaler(enabled=False),
        ema=Ema(flat, decay) if decay else None,
        metrics=TrainMetrics(accelerator, stats_are_global=not reduces_by_ddp),
        clock=clock,
    )
