"""A short training that each process does alone, to compare what their machines compute."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from accelerate import Accelerator

from lenet_dist.config import Config
from lenet_dist.data import dataset
from lenet_dist.machine.clock import Clock
from lenet_dist.plan import validate
from lenet_dist.training import gradient
from lenet_dist.training import state as states
from lenet_dist.training.step import TrainStep
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import LENET5

_IMAGES = 2_000
"""About as many are trained on: the first step shows other kernels, the next ones rare faults."""


def train_alone(config: Config, accelerator: Accelerator) -> tuple[str, str]:
    """SHA-256 (hex) of the weights after a few of the config's steps, on synthetic images, twice.

    Every process takes whole steps, without the others. Nothing is compiled, for that takes long.
    A collective, because the model is wrapped as for a run.
    """
    config = replace(config, compute=replace(config.compute, compile=False))
    plan = validate(config, world_size=1)
    device = accelerator.device
    images = dataset.synthetic("train").to(device)
    model = LENET5.build(config).to(device)
    state = states.build(model, config, accelerator, Clock(0.0), capturable=False)
    stopwatch = Stopwatch(device, accelerator.gather)
    of_batch = gradient.build(plan, accelerator, LENET5, state, stopwatch, images)
    take_step = TrainStep(plan, of_batch, state)
    weights, scale = take_step.weights.detach(), state.scaler.state_dict()
    initial = weights.clone()

    def train() -> str:
        weights.copy_(initial)
        state.optimizer.state.clear()
        state.scaler.load_state_dict(scale)
        for step in range(min(plan.total_steps, max(2, _IMAGES // plan.batch_size))):
            first = step * plan.batch_size
            ids = torch.arange(first, first + plan.batch_size, device=device) % len(images)
            take_step(images.batch_of(ids), step)
        return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()

    return train(), train()
