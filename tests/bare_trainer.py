"""A trainer without a run directory, for tests of its step alone."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from lenet_dist.data import dataset, sampler
from lenet_dist.plan import Plan
from lenet_dist.train.audit import Audit
from lenet_dist.train.ddp_gradient import DdpGradient
from lenet_dist.train.local_sums import LocalSums
from lenet_dist.train.shard_gradients import COUNTS, ManyAtOnce
from lenet_dist.train.state import TrainState
from lenet_dist.train.step_params import StepParamsOnDevice
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5, cross_entropy_of_classes
from lenet_dist.train.task_check import Traits
from lenet_dist.train.trainer import Trainer
from lenet_dist.train.tree_allreduce import TreeAllReduce


def bare_trainer(
    plan: Plan, accelerator: Accelerator, state: TrainState, stopwatch: Stopwatch,
    images: dataset.Images, ids: Tensor,
) -> Trainer:  # fmt: skip
    """What `train_step` needs on one process, for LeNet-5; `ids` are the training samples'."""
    trainer = Trainer.__new__(Trainer)
    config = trainer.config = plan.config
    trainer.plan, trainer.state, trainer.shards = plan, state, plan.shards_by_rank[0]
    trainer.step_params = StepParamsOnDevice(plan, state)
    if config.train.reduction == "ddp":
        traits = Traits(classes=10, draws_random_numbers=False)
        trainer.ddp_gradient = DdpGradient(state, LENET5.loss, config, 0, stopwatch, traits)
        trainer.ddp_gradient.warm_up(images.batch_of(ids[: plan.shard_size]))
    else:
        at_once = min(16, plan.shards)
        loss = LENET5.loss
        if ids.device.type != "cpu":
            smoothing = config.train.label_smoothing
            loss = cross_entropy_of_classes(10, smoothing, ids.device)
        gradients = ManyAtOnce(state, loss, config, at_once, size=at_once)
        trainer.local_sums = LocalSums(plan, gradients)
    width = state.flat.numel() + COUNTS
    trainer.tree_all_reduce = TreeAllReduce(
        plan.shards_by_rank, 0, width, lambda rows: rows, stopwatch
    )
    batches = sampler.GlobalBatches(
        ids, batch_size=plan.batch_size, seed=0, first_step=0, last_step=plan.total_steps
    )
    trainer.audit = Audit(
        plan, accelerator, state, trainer.local_sums, images, batches, Path(), trusted_step=0
    )
    return trainer
