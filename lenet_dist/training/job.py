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
from lenet_dist.config import Config, Plan
from lenet_dist.data import dataset, fetch, sampler
from lenet_dist.data.dataset import Batch, Images
from lenet_dist.exits import RequestError
from lenet_dist.files import write_atomically
from lenet_dist.model import lenet5
from lenet_dist.model.ema import MovingAverage
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.runtime.accelerator import auto_threads, device_name, on_each, on_each_node, on_main
from lenet_dist.runtime.clock import Clock
from lenet_dist.runtime.run_directory import RunDirectory, config_changes, refusal
from lenet_dist.runtime.stop import StopRequest
from lenet_dist.runtime.versions import DECIDE_BITS, versions
from lenet_dist.tracking.metrics import Line, MetricsFile
from lenet_dist.tracking.progress import Progress
from lenet_dist.training import checkpoint as checkpoints
from lenet_dist.training import optimizer as optimizers
from lenet_dist.training.checkpoint import Checkpoint
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
    take_step: TrainStep
    batches: DataLoader[Batch]
    validation: Images
    data_sha256: str
    step: int
    resumes: int
    bit_exact: bool
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
            "wandb_id": None,
            "bit_exact": self.bit_exact,
            "window": self.window.state(),
            "seconds": self.clock.read(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        optimizer = _optimizer_tensors(self.model, self.optimizer)
        optimizer |= {_AVERAGE_PREFIX + name: mean for name, mean in averages.items()}
        return Checkpoint(_on_cpu(dict(self.model.state_dict())), _on_cpu(optimizer), state)


@dataclass(frozen=True)
class _Beginning:
    """Where a start begins, as the main process found it."""

    threads: int
    checkpoint: Checkpoint | None
    resumes: int
    bit_exact: bool


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
    plan = configuration.validate(config, accelerator.num_processes)
    device = accelerator.device
    on_each_node(accelerator, lambda: fetch.ensure(config.data))
    training_set = on_each(accelerator, lambda: dataset.load(config.data, "train")).to(device)
    training_ids, validation_ids = sampler.split(
        config.seed, len(training_set), config.data.validation
    )
    data_sha256 = dataset.data_hash(config.data)

    metrics = MetricsFile(directory.metrics)
    beginning = on_main(
        accelerator, lambda: _begin(config, plan, accelerator, directory, metrics, data_sha256)
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
    batch_ids: Any = sampler.GlobalBatches(
        training_ids,
        batch_size=config.train.batch_size,
        seed=config.seed,
        first_step=step,
        last_step=plan.total_steps,
    )
    batches: DataLoader[Batch] = DataLoader(
        training_set,
        batch_sampler=batch_ids,
        collate_fn=_whole_batch,
        generator=torch.Generator(),  # Else DataLoader draws from the global one.
    )
    wrapped, optimizer, batches = accelerator.prepare(
        model, optimizers.build(config.optimizer, model.parameters()), batches
    )
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    window = Window(accelerator, stats_are_global=config.train.reduction == "fixed")
    clock = Clock(started)
    if checkpoint:
        _restore(checkpoint, accelerator, model, optimizer, average, window, clock)
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
        take_step=TrainStep(config, plan, accelerator, wrapped, optimizer, average),
        batches=batches,
        validation=Images(*training_set.__getitems__(validation_ids)[:2]),
        data_sha256=data_sha256,
        step=step,
        resumes=beginning.resumes,
        bit_exact=beginning.bit_exact,
        last_save=time.monotonic(),
        saved_step=step if checkpoint else None,
    )


def is_line_due(config: Config, plan: Plan, step: int) -> bool:
    """Whether a train line is due after step number `step` (from 1)."""
    return step % config.log.every_steps == 0 or step == plan.total_steps


def is_validation_due(config: Config, plan: Plan, step: int) -> bool:
    """Whether a validation is due after step number `step` (from 1)."""
    if config.data.validation == 0 or step == 0:
        return False
    epoch, rest = divmod(step, plan.steps_per_epoch)
    return step == plan.total_steps or (rest == 0 and epoch % config.evaluate.every_epochs == 0)


def _begin(
    config: Config,
    plan: Plan,
    accelerator: Accelerator,
    directory: RunDirectory,
    metrics: MetricsFile,
    data_sha256: str,
) -> _Beginning:
    """Open the run directory and bring it to the state of its newest checkpoint."""
    begun = directory.open(config)
    threads = _threads(config, begun)
    differences = _config_differences(config, begun, threads)
    checkpoint: Checkpoint | None = None
    warnings: list[str] = []
    if begun:
        checkpoint, warnings = checkpoints.load_newest(directory.checkpoints)
    step = checkpoint.state["step"] if checkpoint else 0
    if checkpoint:
        differences += _state_differences(checkpoint.state, config, plan, accelerator, data_sha256)
    differences += _lost_lines(metrics, config, plan, step)
    if differences and not config.run.inexact:
        raise RequestError(refusal(directory.path, differences))
    for warning in warnings:
        print(f"warning: checkpoint not used: {warning}", file=sys.stderr, flush=True)

    resolved = copy.deepcopy(config)
    resolved.compute.threads = threads
    write_atomically(directory.config, configuration.to_yaml(resolved).encode())
    metrics.keep(lambda line: _is_before(line, step))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    start = {"step": step, "world_size": plan.world_size, "time": now}
    earlier_starts = directory.note_start(start)
    bit_exact = not differences and (checkpoint is None or checkpoint.state["bit_exact"])
    return _Beginning(threads, checkpoint, earlier_starts, bit_exact)


def _threads(config: Config, begun: Config | None) -> int:
    """CPU threads a process: as asked, else as the run began, else this node's share."""
    asked, before = config.compute.threads, begun.compute.threads if begun else "auto"
    if asked != "auto":
        return asked
    return before if before != "auto" else auto_threads()


def _config_differences(config: Config, begun: Config | None, threads: int) -> list[str]:
    if begun is None:
        return []
    differences = config_changes(begun, config)
    if threads != begun.compute.threads:
        differences.append(f"compute.threads: {begun.compute.threads} -> {threads}")
    return differences


def _state_differences(
    state: dict[str, Any], config: Config, plan: Plan, accelerator: Accelerator, data_sha256: str
) -> list[str]:
    """What differs between a checkpoint's circumstances and the present ones, and decides bits."""
    now: dict[str, Any] = {
        "config_hash": configuration.config_hash(config),
        "data_sha256": data_sha256,
        "device": device_name(accelerator),
    }
    before = {name: state[name] for name in now}
    if config.train.reduction == "ddp":
        before["world size (under train.reduction=ddp)"] = state["world_size"]
        now["world size (under train.reduction=ddp)"] = plan.world_size
    present = versions()
    before |= {name: state["versions"].get(name) for name in DECIDE_BITS}
    now |= {name: present[name] for name in DECIDE_BITS}
    return [f"{name}: {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]


def _is_before(line: Line, step: int) -> bool:
    """Whether a line was written before the checkpoint of `step`: evaluations come after it."""
    return line["step"] < step or (line["step"] == step and line["kind"] == "train")


def _lost_lines(metrics: MetricsFile, config: Config, plan: Plan, step: int) -> list[str]:
    """What a run that is at `step` has written and metrics.jsonl lacks, as a difference."""
    steps = range(1, step + 1)
    expected = {("train", s) for s in steps if is_line_due(config, plan, s)}
    expected |= {("validation", s) for s in steps[:-1] if is_validation_due(config, plan, s)}
    lost = expected - {(line["kind"], line["step"]) for line in metrics.read()}
    if not lost:
        return []
    kind, first = min(lost, key=lambda entry: entry[1])
    return [f"{metrics.path} has lost {len(lost)} lines, first the {kind} line of step {first}"]


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
    names = [name for name, _ in model.named_parameters()]
    by_parameter = {
        index: {
            key.removeprefix(f"{name}."): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{name}.")
        }
        for index, name in enumerate(names)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": by_parameter, "param_groups": groups})
    if average:
        average.load(
            {name.removeprefix(_AVERAGE_PREFIX): tensor for name, tensor in tensors.items()}
        )
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
    window.load(checkpoint.state["window"])
    clock.add(checkpoint.state["seconds"])


def _optimizer_tensors(model: LeNet5, optimizer: AcceleratedOptimizer) -> dict[str, Tensor]:
    state = optimizer.state
    return {
        f"{name}.{key}": tensor
        for name, parameter in model.named_parameters()
        for key, tensor in state[parameter].items()
        if tensor is not None
    }


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _whole_batch(batch: T) -> T:
    """Images gives whole batches: there is nothing to collate."""
    return batch
