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

from lenet_dist.data import dataset, fetch, sampler
from lenet_dist.data.dataset import Batch, Images, SampleIds
from lenet_dist.data.sampler import GlobalBatches
from lenet_dist.machine.clock import Clock
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import on_each, on_each_node, on_main, place_of, say
from lenet_dist.processes.exchange import gather_of
from lenet_dist.processes.stop import Agreement, StopRequest
from lenet_dist.run.directory import RunDirectory
from lenet_dist.tracking.progress import Progress
from lenet_dist.training import gradient, graph
from lenet_dist.training import state as states
from lenet_dist.training.audit import Audit
from lenet_dist.training.beginning import Beginning, begin, with_threads
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.optimizer import weights_of
from lenet_dist.training.reduction import rows_sent
from lenet_dist.training.rows import COUNTS
from lenet_dist.training.slow_ranks import SlowRanks
from lenet_dist.training.state import TrainState
from lenet_dist.training.step import TrainStep
from lenet_dist.training.stopwatch import Stopwatch, TakeStep
from lenet_dist.training.task import Task


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
    take_step: TakeStep
    """Takes what `batches` gives, a Batch or its sample ids alone, and the step's number."""
    audit: Audit
    stopwatch: Stopwatch
    slow_ranks: SlowRanks
    validation: Images
    saved: Saved


def assemble(
    plan: Plan, task: Task, accelerator: Accelerator, directory: RunDirectory, stop: StopRequest,
    clock: Clock,
) -> Job:  # fmt: skip
    """The job that a request asks for, at the step where it goes on.

    Raises RequestError, on every process and before anything is written, if the data or the run
    directory don't allow it.
    """
    device, data = accelerator.device, plan.config.data
    is_captured = _is_captured(plan, task, accelerator)
    if is_captured:
        graph.enter_side_stream(device)
    on_each_node(accelerator, lambda: fetch.ensure(data))
    training_set = on_each(lambda: dataset.load(data, "train")).to(device)
    places = gather_object([place_of(accelerator)])
    stop.training_begins()
    beginning = on_main(
        accelerator, lambda: begin(plan, accelerator, places, directory, dataset.data_hash(data))
    )
    threads = beginning.record["threads"]
    torch.set_num_threads(threads)
    plan = replace(plan, config=with_threads(plan.config, threads))

    model = task.build(plan.config).to(device)
    state = states.build(model, plan.config, accelerator, clock, capturable=is_captured)
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
    numbers = rows_sent(plan.dealt) * (weights_of(state.optimizer).numel() + COUNTS)
    gather = gather_of(accelerator, numbers, plan.config.compute.timeout_seconds)
    stopwatch = Stopwatch(device, gather)
    of_batch = gradient.build(plan, accelerator, task, state, stopwatch, training_set)
    step = TrainStep(plan, of_batch, state)
    take_step = CapturedStep(step, training_set) if is_captured else step

    def shard_of(number: int, shard: int) -> Batch:
        ids = global_batches.of_step(number).split(plan.shard_size)[shard]
        return training_set.batch_of(ids)

    audit = Audit(step, plan, accelerator, directory.checkpoints, shard_of)
    audit.sound_step = audit.equal_step = state.step
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
        take_step=audit.audited(stopwatch.in_steps(take_step), is_captured=is_captured),
        stopwatch=stopwatch,
        slow_ranks=SlowRanks(places, [len(shards) for shards in plan.dealt]),
        validation=Images(*training_set.batch_of(validation_ids)[:2]),
        saved=Saved(state.step if beginning.checkpoint else None, time.monotonic()),
    )


def _batches(
    plan: Plan, global_batches: GlobalBatches, samples: Images | SampleIds
) -> DataLoader[Any]:
    """The loader of global batches, which Accelerate deals out to the processes."""
    shares = [len(shards) * plan.shard_size for shards in plan.dealt]
    batch_ids: Any = sampler.DealtBatches(global_batches, shares)
    return DataLoader(
        samples,
        batch_sampler=batch_ids,
        collate_fn=default_convert,  # Images gives whole batches.
        generator=torch.Generator(),  # Otherwise DataLoader draws from the global one.
    )


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
