"""A run's parts, put together: from the request, and from where an earlier start left off."""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.utils.data import DataLoader

from lenet_dist import config as configuration
from lenet_dist.config import Config
from lenet_dist.data import dataset, fetch, sampler
from lenet_dist.data.dataset import Images, SampleIds
from lenet_dist.model import lenet5
from lenet_dist.model.ema import MovingAverage
from lenet_dist.model.flat import flatten
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.plan import Plan, validate
from lenet_dist.runtime.accelerator import device_name, on_each, on_each_node, on_main
from lenet_dist.runtime.clock import Clock
from lenet_dist.runtime.exchange import Gather, gather_of
from lenet_dist.runtime.run_directory import RunDirectory
from lenet_dist.runtime.stop import StopRequest
from lenet_dist.runtime.versions import versions
from lenet_dist.tracking.metrics import MetricsFile
from lenet_dist.tracking.progress import Progress
from lenet_dist.training import gradient, graph
from lenet_dist.training import optimizer as optimizers
from lenet_dist.training.beginning import begin
from lenet_dist.training.checkpoint import Checkpoint
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.reduction import rows_sent
from lenet_dist.training.rows import WIDTH
from lenet_dist.training.step import TrainStep
from lenet_dist.training.window import Window

T = TypeVar("T")

_AVERAGE_PREFIX = "average."


@dataclass
class Job:
    """All that the training loop works with. `step` counts the optimizer steps done."""

    config: Config
    plan: Plan
    accelerator: Accelerator
    directory: RunDirectory
    stop: StopRequest
    clock: Clock
    metrics: MetricsFile
    progress: Progress
    window: Window
    model: LeNet5
    optimizer: AcceleratedOptimizer
    average: MovingAverage | None
    take_step: TrainStep | CapturedStep
    gather: Gather
    batches: DataLoader[Any]
    """What `take_step` takes: a Batch, or its sample ids alone."""
    validation: Images
    data_sha256: str
    step: int
    resumes: int
    bit_exact: bool
    wandb_id: str
    last_save: float
    """When the last checkpoint was written, on time.monotonic()."""
    saved_step: int | None
    """The step of the newest checkpoint."""

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to give away: the running mean if there is one."""
        return self.average.means if self.average else dict(self.model.state_dict())

    def checkpoint(self) -> Checkpoint:
        """Everything that going on from here needs. Settle the window first."""
        averages = self.average.means if self.average else {}
        state = {
            "step": self.step,
            "samples": self.step * self.plan.batch_size,
            "config_hash": configuration.config_hash(self.config),
            "data_sha256": self.data_sha256,
            "world_size": self.plan.world_size,
            "threads": self.config.compute.threads,
            "device": device_name(self.accelerator),
            "versions": versions(),
            "wandb_id": self.wandb_id,
            "bit_exact": self.bit_exact,
            "window": self.window.state(),
            "seconds": self.clock.read(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        optimizer = optimizers.tensors(self.optimizer.optimizer, self.model)
        optimizer |= {_AVERAGE_PREFIX + name: mean for name, mean in averages.items()}
        return Checkpoint(_on_cpu(dict(self.model.state_dict())), _on_cpu(optimizer), state)


def assemble(
    config: Config,
    accelerator: Accelerator,
    directory: RunDirectory,
    stop: StopRequest,
    started: float,
) -> Job:
    """The job that a request amounts to, at the step where it goes on.

    `started`: when the process began, on time.monotonic(). Raises RequestError, on every process,
    before anything is written, where the data or the run directory don't allow it.
    """
    plan = validate(config, accelerator.num_processes)
    device = accelerator.device
    is_captured = _is_captured(config, accelerator)
    if is_captured:
        graph.enter_side_stream(device)
    on_each_node(accelerator, lambda: fetch.ensure(config.data))
    training_set = on_each(accelerator, lambda: dataset.load(config.data, "train")).to(device)
    training_ids, validation_ids = sampler.split(
        config.seed, len(training_set), config.data.validation
    )
    data_sha256 = dataset.data_hash(config.data)

    metrics = MetricsFile(directory.metrics)
    beginning = on_main(
        accelerator, lambda: begin(config, plan, accelerator, directory, metrics, data_sha256)
    )
    config = copy.deepcopy(config)
    config.compute.threads = beginning.threads
    torch.set_num_threads(beginning.threads)
    checkpoint = beginning.checkpoint
    step = checkpoint.state["step"] if checkpoint else 0

    model = lenet5.build(config.seed, config.model.mean, config.model.std).to(device)
    if checkpoint:
        model.load_state_dict(checkpoint.model)
    if config.compute.compile:
        model.compile()
    global_batches = sampler.GlobalBatches(
        training_ids.to(device),
        batch_size=config.train.batch_size,
        seed=config.seed,
        first_step=step,
        last_step=plan.total_steps,
    )
    shares = [len(shards) * plan.shard_size for shards in plan.dealt]
    batch_ids: Any = sampler.DealtBatches(global_batches, shares)
    batches: DataLoader[Any] = DataLoader(
        SampleIds() if is_captured else training_set,
        batch_sampler=batch_ids,
        collate_fn=_whole_batch,
        generator=torch.Generator(),  # Else DataLoader draws from the global one.
    )
    # The model is in its place: asking Accelerate to put it there imports DTensor, half a second.
    wrapped, batches = accelerator.prepare(model, batches, device_placement=[False, True])
    # After DDP, which moves the parameters.
    optimizer = accelerator.prepare(
        optimizers.build(config.optimizer, flatten(model), capturable=is_captured)
    )
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    window = Window(accelerator, stats_are_global=config.train.reduction == "fixed")
    clock = Clock(started)
    if checkpoint:
        _restore(checkpoint, accelerator, model, optimizer, average, window, clock)
    numbers = rows_sent(plan.dealt) * WIDTH
    gather = gather_of(accelerator, numbers, config.compute.timeout_seconds)
    of_batch = gradient.build(config, plan, accelerator, model, wrapped, gather, training_set)
    # Accelerate's own step looks for optional packages at every call: this is what it wraps.
    scaler = accelerator.scaler or torch.amp.GradScaler(enabled=False)
    train_step = TrainStep(config, plan, of_batch, optimizer.optimizer, scaler, average)
    if accelerator.is_main_process:
        stop.watch(directory.stop)
    return Job(
        config=config,
        plan=plan,
        accelerator=accelerator,
        directory=directory,
        stop=stop,
        clock=clock,
        metrics=metrics,
        progress=Progress(
            is_main=accelerator.is_main_process, first_step=step, total_steps=plan.total_steps
        ),
        window=window,
        model=model,
        optimizer=optimizer,
        average=average,
        take_step=CapturedStep(train_step, training_set) if is_captured else train_step,
        gather=gather,
        batches=batches,
        validation=Images(*training_set.__getitems__(validation_ids)[:2]),
        data_sha256=data_sha256,
        step=step,
        resumes=beginning.resumes,
        bit_exact=beginning.bit_exact,
        wandb_id=beginning.wandb_id,
        last_save=time.monotonic(),
        saved_step=step if checkpoint else None,
    )


def _is_captured(config: Config, accelerator: Accelerator) -> bool:
    """Whether steps are to be captured as a CUDA graph, and can be."""
    if not config.compute.cuda_graph:
        return False
    reason = graph.obstacle(config.compute, accelerator)
    if reason and accelerator.is_main_process:
        print(
            f"warning: compute.cuda_graph=true: steps are not captured: {reason}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return reason is None


def _restore(
    checkpoint: Checkpoint,
    accelerator: Accelerator,
    model: LeNet5,
    optimizer: AcceleratedOptimizer,
    average: MovingAverage | None,
    window: Window,
    clock: Clock,
) -> None:
    tensors = checkpoint.optimizer
    optimizers.load(optimizer.optimizer, model, tensors)
    if average:
        average.load(
            {name.removeprefix(_AVERAGE_PREFIX): tensor for name, tensor in tensors.items()}
        )
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
    window.load(checkpoint.state["window"])
    clock.add(checkpoint.state["seconds"])


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _whole_batch(batch: T) -> T:
    """Images gives whole batches: there is nothing to collate."""
    return batch
