"""A short training that each process does alone, to compare what their machines compute."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from accelerate import Accelerator

from lenet_dist.config import Config
from lenet_dist.data import dataset
from lenet_dist.plan import validate
from lenet_dist.train.clock import Clock
from lenet_dist.train.gradient_choice import build_shard_gradients, choose_gradients
from lenet_dist.train.local_sums import LocalSums
from lenet_dist.train.shard_gradients import COUNTS
from lenet_dist.train.state import build_state
from lenet_dist.train.step_params import params_of_step
from lenet_dist.train.task import LENET5
from lenet_dist.train.task_check import Traits

_IMAGES = 2_000
"""About as many are trained on: the first step shows other kernels, the next ones rare faults."""


def train_alone(config: Config, accelerator: Accelerator) -> tuple[str, str]:
    """SHA-256 (hex) of the weights after a few of the config's steps, on synthetic images, twice.

    Every process takes whole steps, without the others. Nothing is compiled, for that takes long.
    A collective, because the model is wrapped as for a run.
    """
    config = replace(config, compute=replace(config.compute, compile=False))
    config = replace(config, train=replace(config.train, reduction="fixed"))
    plan = validate(config, world_size=1)
    device = accelerator.device
    images = dataset.synthetic("train").to(device)
    state = build_state(LENET5, config, accelerator, Clock(0.0), capturable=False)
    traits = Traits(classes=10, draws_random_numbers=False)
    choice = choose_gradients(plan, LENET5, state, accelerator, traits, images)
    plan = replace(plan, config=choice.resolve(config))
    gradients = build_shard_gradients(choice, plan, LENET5, state, accelerator, traits, images)
    local_sums, [shards] = LocalSums(plan, gradients), plan.shards_by_rank
    weights, scale = state.flat.detach(), state.scaler.state_dict()
    initial = weights.clone()

    def train() -> str:
        weights.copy_(initial)
        state.optimizer.state.clear()
        state.scaler.load_state_dict(scale)
        for step in range(min(plan.total_steps, max(2, _IMAGES // plan.batch_size))):
            first = step * plan.batch_size
            ids = torch.arange(first, first + plan.batch_size, device=device) % len(images)
            params = params_of_step(plan, state, step)
            [(_, total)] = local_sums(images.batch_of(ids), shards, step, params)
            state.set_gradient(total[:-COUNTS])
            state.scaler.step(state.optimizer)
            state.scaler.update()
        return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()

    return train(), train()
