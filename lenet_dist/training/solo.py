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
from lenet_dist.training import state as states
from lenet_dist.training.gradient_choice import build, choose
from lenet_dist.training.local_sums import LocalSums
from lenet_dist.training.shard_gradients import COUNTS
from lenet_dist.training.step import ShardedGradient, TrainStep
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import LENET5
from lenet_dist.training.task_check import Traits
from lenet_dist.training.tree_allreduce import TreeAllReduce

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
    state = states.build(LENET5, config, accelerator, Clock(0.0), capturable=False)
    traits = Traits(classes=10, draws_random_numbers=False)
    choice = choose(plan, LENET5, state, accelerator, traits, images)
    gradients = build(choice, plan, LENET5, state, accelerator, traits, images)
    shards = plan.shards_by_rank[0]
    width = state.flat.numel() + COUNTS
    all_reduce = TreeAllReduce([shards], 0, width, accelerator.gather, Stopwatch(device))
    step = TrainStep(plan, state, ShardedGradient(shards, LocalSums(plan, gradients), all_reduce))
    weights, scale = state.flat.detach(), state.scaler.state_dict()
    initial = weights.clone()

    def train() -> str:
        weights.copy_(initial)
        state.optimizer.state.clear()
        state.scaler.load_state_dict(scale)
        for number in range(min(plan.total_steps, max(2, _IMAGES // plan.batch_size))):
            first = number * plan.batch_size
            ids = torch.arange(first, first + plan.batch_size, device=device) % len(images)
            step(images.batch_of(ids), number)
        return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()

    return train(), train()
