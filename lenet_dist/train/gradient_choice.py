"""How a run computes its gradients: decided once, when it begins, and kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from lenet_dist.config import Config
from lenet_dist.data import dataset
from lenet_dist.data.dataset import Images, pixels
from lenet_dist.distributed.accelerator import say
from lenet_dist.exits import RequestError
from lenet_dist.kernels import native
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.plan import Plan
from lenet_dist.train.local_sums import parts
from lenet_dist.train.shard_gradients import (
    ManyAtOnce,
    NativeKernel,
    OneByOne,
    ShardGradients,
    is_bit_equal,
)
from lenet_dist.train.state import TrainState
from lenet_dist.train.task import Task, cross_entropy, cross_entropy_of_classes
from lenet_dist.train.task_check import Traits
from lenet_dist.train.threads import check_threads_of_fork

_IMAGES_AT_ONCE = {"cpu": 256, "cuda": 1024}
"""Images per pass. Smaller passes are dominated by overhead; larger ones overflow a CPU's caches,
and on a GPU are filled up with more copies where a process has few shards."""
_GRADIENT_BYTES_AT_ONCE = 2**28


@dataclass(frozen=True)
class GradientChoice:
    """What `auto` means for this run on these processes, and what stands against the kernel."""

    kernels: Literal["native", "torch"]
    shards_at_once: int
    obstacle: str | None
    """Why the native kernel can't compute this run; None if it can."""

    def resolve(self, config: Config) -> Config:
        """The config with what `auto` means in place of it."""
        return replace(
            config,
            compute=replace(config.compute, kernels=self.kernels),
            train=replace(config.train, shards_at_once=self.shards_at_once),
        )


def choose_gradients(
    plan: Plan, task: Task, state: TrainState, accelerator: Accelerator, traits: Traits,
    samples: Images,
) -> GradientChoice:  # fmt: skip
    """What the config asks for, with `auto` resolved for all processes alike. A collective.

    Raises RequestError, on every process, if what it asks for can't be had.
    """
    config = plan.config
    obstacles = gather_object([_kernel_obstacle(config, task, state)])
    obstacle = next((found for found in obstacles if found), None)
    if config.compute.kernels == "native" and obstacle:
        raise RequestError(f"compute.kernels=native: {obstacle}")
    asked = config.train.shards_at_once
    at_once = 1 if asked == 1 else _shards_at_once(plan, state, traits, asked)
    if at_once > 1 and (obstacle or config.compute.kernels == "torch"):
        error = _transform_error(plan, task, state, samples)
        if error and asked != "auto" and "performance drop" not in error:
            raise RequestError(
                f"train.shards_at_once={asked}: torch.func can't compute many shards of this model"
                f" at once; use 1 ({error})"
            )
        at_once = 1 if error and asked == "auto" else at_once
    at_once = min(gather_object([at_once]))
    is_by_torch = obstacle or config.compute.kernels == "torch"
    return GradientChoice("torch" if is_by_torch else "native", at_once, obstacle)


def build_shard_gradients(
    choice: GradientChoice, plan: Plan, task: Task, state: TrainState, accelerator: Accelerator,
    traits: Traits, samples: Images,
) -> ShardGradients:  # fmt: skip
    """The way to compute gradients that the run has chosen: the plan's config, of which nothing is
    `auto` any more. It says so, and tries it on this machine. A collective."""
    config = plan.config
    if config.compute.kernels == "native":
        say(accelerator, f"gradients by the native kernel ({native.variant()})")
        return NativeKernel(state, config)
    if choice.obstacle and choice.obstacle == native.reason() and _is_lenet5(task, state):
        say(accelerator, f"gradients by torch: {choice.obstacle}")
    at_once = int(config.train.shards_at_once)
    if at_once == 1:
        say(accelerator, "shards are computed one by one")
        draws = traits.draws_random_numbers
        return OneByOne(state, task.loss, config, draws_random_numbers=draws)
    size = min(at_once, plan.shards) if accelerator.device.type == "cuda" else None
    loss = task.loss
    if size and _is_lenet5(task, state):
        smoothing = config.train.label_smoothing
        loss = cross_entropy_of_classes(dataset.CLASSES, smoothing, accelerator.device)
    gradients = ManyAtOnce(state, loss, config, at_once, size)
    while gradients.at_once > 1 and not _are_bit_equal(gradients, plan, samples):
        gradients.at_once = min(gradients.at_once, plan.shards) // 2
    fewer = [r for r, most in enumerate(gather_object([gradients.at_once])) if most < at_once]
    if fewer:
        say(
            accelerator,
            f"bit-equality check failed on {_ranks(fewer, accelerator.num_processes)}: fewer shards"
            " are computed at once there (slower, same result)",
        )
    else:
        say(accelerator, f"up to {at_once} shards are computed at once")
    return gradients


def use_threads(config: Config) -> None:
    """Compute on the config's number of CPU threads."""
    threads = int(config.compute.threads)
    if config.compute.kernels == "native":
        native.use_threads(threads)
    else:
        torch.set_num_threads(threads)
        check_threads_of_fork()


def _is_lenet5(task: Task, state: TrainState) -> bool:
    return type(state.model) is LeNet5 and task.loss is cross_entropy


def _kernel_obstacle(config: Config, task: Task, state: TrainState) -> str | None:
    if not _is_lenet5(task, state) or len(state.trainable) != 10:
        return "it computes LeNet-5 with cross-entropy, and this is another model or loss"
    if state.flat.device.type != "cpu":
        return "it computes on CPUs"
    if config.compute.precision != "no" or config.compute.compile:
        return "it computes in float32, and compiles nothing"
    if config.train.reduction == "ddp":
        return "it computes shards, which train.reduction=ddp has none of"
    return native.reason()


def _shards_at_once(plan: Plan, state: TrainState, traits: Traits, asked: int | str) -> int:
    """As many as asked for; for `auto`, as many as fit, on any number of processes."""
    obstacle = None
    if traits.draws_random_numbers:
        obstacle = "the model draws random numbers, which each shard must draw for itself"
    elif plan.config.compute.compile:
        obstacle = "compute.compile=true compiles the model for one shard"
    elif plan.config.train.reduction == "ddp":
        return 1
    if asked != "auto":
        if obstacle:
            raise RequestError(f"train.shards_at_once={asked}: {obstacle}; use 1")
        return int(asked)
    if obstacle:
        return 1
    fitting = min(
        _IMAGES_AT_ONCE[state.flat.device.type] // plan.shard_size,
        _GRADIENT_BYTES_AT_ONCE // (4 * state.flat.numel()),
    )
    return fitting if fitting > 1 else 1


def _transform_error(plan: Plan, task: Task, state: TrainState, samples: Images) -> str | None:
    """Why torch.func can't transform this model, or not without a loop; None if it can."""
    rows_of = _rows_of(ManyAtOnce(state, task.loss, plan.config, 2), plan, samples)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rows_of(range(2))
        except (RuntimeError, NotImplementedError, ValueError) as error:
            return " ".join(str(error).split())[:300]
    told = (str(warning.message) for warning in caught)
    return next((text for text in told if "performance drop" in text), None)


def _are_bit_equal(gradients: ManyAtOnce, plan: Plan, samples: Images) -> bool:
    """Whether shards have the same bits alone and in each number that this process may compute at
    once: as many as any rank has, because it recomputes other ranks' shards in audits."""
    numbers = {len(p) for shards in plan.shards_by_rank for p in parts(shards, gradients.at_once)}
    rows_of = _rows_of(gradients, plan, samples)
    return all(is_bit_equal(rows_of, range(number)) for number in sorted(numbers))


def _rows_of(gradients: ShardGradients, plan: Plan, samples: Images) -> Callable[[range], Tensor]:
    """The rows of shards of the first samples of the data, without augmentation."""

    def rows_of(shards: range) -> Tensor:
        ids = torch.arange(shards.start * plan.shard_size, shards.stop * plan.shard_size)
        batch = samples.batch_of(ids % len(samples))
        return gradients(pixels(batch.images), batch.labels, shards, 0)

    return rows_of


def _ranks(ranks: list[int], world_size: int) -> str:
    if len(ranks) == world_size:
        return "every rank"
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))}"
