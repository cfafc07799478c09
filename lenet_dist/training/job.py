"""A run's parts, put together: from the request, and from where an earlier start left off."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, default_convert

from lenet_dist.data import sampler
from lenet_dist.data.dataset import Batch, Images, SampleIds, pixels
from lenet_dist.data.sampler import GlobalBatches
from lenet_dist.kernels import native
from lenet_dist.machine.clock import Clock
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import on_each, on_main, place_of, say
from lenet_dist.processes.exchange import Gather, gather_of
from lenet_dist.processes.stop import Agreement, StopRequest
from lenet_dist.run.directory import RunDirectory
from lenet_dist.tracking.progress import Progress
from lenet_dist.training import graph
from lenet_dist.training import state as states
from lenet_dist.training.audit import Audit
from lenet_dist.training.beginning import Beginning, begin, resolve
from lenet_dist.training.ddp_gradient import DdpGradient
from lenet_dist.training.gradient_choice import build as build_gradients
from lenet_dist.training.gradient_choice import choose
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.local_sums import LocalSums
from lenet_dist.training.shard_gradients import COUNTS
from lenet_dist.training.slow_ranks import SlowRanks
from lenet_dist.training.state import TrainState
from lenet_dist.training.step import ShardedGradient, TrainStep
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import Task
from lenet_dist.training.task_check import check_labels, check_task
from lenet_dist.training.tree_allreduce import TreeAllReduce, rows_sent


class Saved(NamedTuple):
    """The newest checkpoint: its step (None if there is none), and its time.monotonic()."""

    step: int | None
    time: float


@dataclass
class Job:
    """What the training loop works with."""

    plan: Plan
    task: Task
    accelerator: Accelerator
    directory: RunDirectory
    agreement: Agreement
    progress: Progress
    beginning: Beginning
    state: TrainState
    batches: DataLoader[Any]
    take_step: TrainStep | CapturedStep
    """Takes what `batches` gives, a Batch or its sample ids alone, and the step's number."""
    audit: Audit
    stopwatch: Stopwatch
    gather: Gather
    slow_ranks: SlowRanks
    validation: Images
    classes: int
    saved: Saved


def assemble(
    plan: Plan, task: Task, accelerator: Accelerator, directory: RunDirectory, stop: StopRequest,
    clock: Clock, training_set: Images,
) -> Job:  # fmt: skip
    """The job that a request asks for, at the step where it goes on.

    Raises RequestError, on every process and before anything is written, if the data or the run
    directory don't allow it.
    """
    device, data = accelerator.device, plan.config.data
    is_captured = _is_captured(plan, task, accelerator)
    if is_captured:
        graph.enter_side_stream(device)
    places = gather_object([place_of(accelerator)])
    state = on_each(
        lambda: states.build(task, plan.config, accelerator, clock, capturable=is_captured)
    )
    first = training_set.batch_of(torch.arange(min(plan.shard_size, len(training_set))))
    traits = on_each(lambda: check_task(state.model, state.prepared, task.loss, first))
    on_each(lambda: check_labels(training_set.labels, traits.classes))
    if task.dataset:
        on_each(lambda: check_labels(task.load(plan.config, "test").labels, traits.classes))
    if is_captured and traits.draws_random_numbers:
        say(accelerator, "steps are not captured: the model draws random numbers")
        is_captured = False
    choice = choose(plan, task, state, accelerator, traits, training_set)
    stop.training_begins()
    beginning = on_main(
        accelerator,
        lambda: begin(
            plan,
            accelerator,
            places,
            directory,
            task.data_hash(plan.config),
            choice,
            has_own_data=task.dataset is not None,
        ),
    )
    record = beginning.record
    _use_threads(record["threads"], record["kernels"])
    resolved = {name: record[name] for name in ("threads", "kernels", "shards_at_once")}
    plan = replace(plan, config=resolve(plan.config, **resolved))
    choice = replace(choice, kernels=record["kernels"], shards_at_once=record["shards_at_once"])
    if beginning.checkpoint:
        state.restore(beginning.checkpoint)
    training_ids, validation_ids = sampler.split(
        plan.config.seed, len(training_set), data.validation
    )
    global_batches = sampler.GlobalBatches(
        training_ids.to(device),
        batch_size=plan.batch_size,
        seed=plan.config.seed,
        first_step=state.step,
        last_step=plan.total_steps,
    )
    batches = _batches(plan, global_batches, SampleIds() if is_captured else training_set)
    width = state.flat.numel() + COUNTS
    numbers = rows_sent(plan.shards_by_rank) * width
    gather = gather_of(accelerator, numbers, plan.config.compute.timeout_seconds)
    stopwatch = Stopwatch(device)
    rank = accelerator.process_index

    def samples_of(step: int, shards: range) -> Batch:
        ids = global_batches.of_step(step)
        return training_set.batch_of(
            ids[shards.start * plan.shard_size : shards.stop * plan.shard_size]
        )

    gradient: ShardedGradient | DdpGradient
    if plan.config.train.reduction == "ddp":
        gradient = DdpGradient(
            state, task.loss, plan.config, rank, stopwatch,
            draws_random_numbers=traits.draws_random_numbers,
        )  # fmt: skip
        gradient.settle(pixels(first.images), first.labels)
        local_sums = None
    else:
        local_sums = LocalSums(
            plan, build_gradients(choice, plan, task, state, accelerator, traits, training_set)
        )
        all_reduce = TreeAllReduce(plan.shards_by_rank, rank, width, gather, stopwatch)
        gradient = ShardedGradient(plan.shards_by_rank[rank], local_sums, all_reduce)
    audit = Audit(plan, accelerator, state, local_sums, samples_of, directory.checkpoints)
    audit.trusted_step = beginning.trusted_step
    step = TrainStep(plan, state, gradient, audit)
    if accelerator.is_main_process:
        stop.watch(directory.stop)
    return Job(
        plan=plan,
        task=task,
        accelerator=accelerator,
        directory=directory,
        agreement=Agreement(stop, accelerator, gather),
        progress=Progress(
            is_main=accelerator.is_main_process, first_step=state.step, total_steps=plan.total_steps
        ),
        beginning=beginning,
        state=state,
        batches=accelerator.prepare(batches),
        audit=audit,
        take_step=CapturedStep(step, training_set) if is_captured else step,
        stopwatch=stopwatch,
        gather=gather,
        slow_ranks=SlowRanks(places, [len(shards) for shards in plan.shards_by_rank]),
        validation=Images(*training_set.batch_of(validation_ids)[:2]),
        classes=traits.classes,
        saved=Saved(state.step if beginning.checkpoint else None, time.monotonic()),
    )


def _batches(
    plan: Plan, global_batches: GlobalBatches, samples: Images | SampleIds
) -> DataLoader[Any]:
    """The loader of global batches, which Accelerate deals out to the processes."""
    shares = [len(shards) * plan.shard_size for shards in plan.shards_by_rank]
    batch_ids: Any = sampler.DealtBatches(global_batches, shares)
    return DataLoader(
        samples,
        batch_sampler=batch_ids,
        collate_fn=default_convert,  # Images gives whole batches.
        generator=torch.Generator(),  # Otherwise DataLoader draws from the global one.
    )


def _use_threads(threads: int, kernels: str) -> None:
    if kernels == "native":
        native.use_threads(threads)
    else:
        torch.set_num_threads(threads)


def _is_captured(plan: Plan, task: Task, accelerator: Accelerator) -> bool:
    """Whether steps are to be captured as a CUDA graph, and can be."""
    compute = plan.config.compute
    if compute.cuda_graph is False:
        return False
    reason = graph.obstacle(compute, accelerator, task)
    if reason and compute.cuda_graph is True and accelerator.is_main_process:
        print(
            f"warning: compute.cuda_graph=true: steps are not captured: {reason}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    elif reason and accelerator.device.type == "cuda":
        say(accelerator, f"compute.cuda_graph=auto: steps are not captured: {reason}")
    return reason is None
