"""A run is resumed or started: the newest checkpoint is compared with the request, and everything
that was written after that checkpoint is taken back."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from lenet_dist.config import Config, config_hash, to_yaml, value_of
from lenet_dist.distributed.accelerator import auto_threads, device_name
from lenet_dist.exits import RequestError
from lenet_dist.files import write_atomically
from lenet_dist.plan import Plan
from lenet_dist.run_dir.checkpoint import Checkpoint, load_newest
from lenet_dist.run_dir.directory import RunDirectory, config_changes, refusal
from lenet_dist.run_dir.lines import Line, LinesFile
from lenet_dist.run_dir.restarts import check_progress
from lenet_dist.system import DECIDE_BITS, Place, kernel_variables, versions
from lenet_dist.track.sweep import Trial
from lenet_dist.train.gradient_choice import GradientChoice
from lenet_dist.train.initial_weights import read_source
from lenet_dist.train.state import TrainState
from lenet_dist.train.task import Task


@dataclass(frozen=True)
class StartingPoint:
    """Where a start goes on, as the main process found it."""

    config: Config
    """The request, with every `auto` that decides bits as the run has it."""
    checkpoint: Checkpoint | None
    weights: dict[str, Tensor] | None
    """What a new run begins with, by name, if not with the weights of its seed."""
    record: dict[str, Any]
    """The provenance of the bits from here on, as checkpoints and the result record it."""
    resumes: int
    trusted_step: int
    """Step of the last audit that held before this start."""

    def bring(self, state: TrainState) -> None:
        """Bring the state to where this start goes on."""
        if self.checkpoint:
            state.restore(self.checkpoint)
        elif self.weights:
            state.begin_with(self.weights)


def resume_or_start(
    plan: Plan,
    task: Task,
    state: TrainState,
    accelerator: Accelerator,
    places: list[Place],
    directory: RunDirectory,
    choice: GradientChoice,
) -> StartingPoint:
    """Open the run directory and bring it to the state of its newest checkpoint.

    `places`: where the processes of this start are, by rank. `choice`: what this start would
    choose if the run were new. Raises RequestError if the run can't go on with the same bits.
    """
    config = plan.config
    begun = directory.open(config)
    checkpoint: Checkpoint | None = None
    warnings: list[str] = []
    if begun:
        checkpoint, warnings = load_newest(directory.checkpoints)
    step = checkpoint.state["step"] if checkpoint else 0
    saved = checkpoint.state if checkpoint else {}
    threads = _kept("compute.threads", config, begun, saved) or auto_threads()
    kernels = _kept("compute.kernels", config, begun, saved) or choice.kernels
    if kernels == "native" and choice.obstacle:
        if not config.run.inexact:
            raise RequestError(
                f"{directory.path} began with compute.kernels=native, which can't be used now:"
                f" {choice.obstacle}. Go on where it can, or write run.inexact=true to go on with"
                " torch's kernels"
            )
        kernels = "torch"
    at_once = _kept("train.shards_at_once", config, begun, saved) or choice.shards_at_once
    kept = replace(choice, kernels=kernels, shards_at_once=at_once)
    resolved = kept.resolve(replace(config, compute=replace(config.compute, threads=threads)))
    provenance = {
        "config_hash": config_hash(config),
        "from": config.run.from_,
        "data_sha256": task.data_hash(config),
        "world_size": plan.world_size,
        "threads": threads,
        "kernels": kernels,
        "shards_at_once": at_once,
        "device": device_name(accelerator),
        "versions": versions(),
        "kernel_variables": kernel_variables(),
    }
    differences = _lost_lines(directory.metrics, plan, step)
    if begun and checkpoint:
        differences += _state_differences(checkpoint.state, provenance, begun, config)
    elif begun:
        differences += config_changes(begun, config) + _resolved_differences(
            {key: value_of(begun, name) for name, key in _RESOLVED.items()}, provenance
        )
    if differences and not config.run.inexact:
        raise RequestError(refusal(directory.path, differences))
    if checkpoint:
        _check_can_go_on(directory, checkpoint.state, plan)
    begins = checkpoint is None and config.run.from_ is not None
    weights = read_source(config, state.model) if begins else None
    for warning in warnings:
        print(f"warning: checkpoint not used: {warning}", file=sys.stderr, flush=True)

    launcher = check_progress(directory, directory.starts.read(), step)
    write_atomically(directory.config, to_yaml(resolved).encode())
    directory.metrics.keep(lambda line: _is_before(line, step))
    directory.ranks.keep(lambda line: line["step"] <= step)
    directory.starts.keep(lambda line: True)  # Without what a kill cut short.
    earlier_starts = directory.starts.read()
    trial = Trial.of_environment()
    wandb_id = _wandb_id(checkpoint, earlier_starts, trial)
    sweep = earlier_starts[-1].get("sweep") if earlier_starts else trial and trial.record()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    directory.starts.write({
        "step": step,
        "world_size": plan.world_size,
        "time": now,
        "wandb_id": wandb_id,
        **({"sweep": sweep} if sweep else {}),
        "places": [asdict(place) for place in places],
        **({"own_images": plan.training_images + config.data.validation} if task.dataset else {}),
        **({"from": config.run.from_} if config.run.from_ else {}),
        **({"launcher": launcher} if launcher else {}),
    })  # fmt: skip
    was_exact = checkpoint is None or checkpoint.state["bit_exact"]
    bit_exact = was_exact and not differences and config.compute.deterministic
    record = {**provenance, "wandb_id": wandb_id, "bit_exact": bit_exact}
    trusted_step = saved.get("trusted_step", 0)
    resumes = len(earlier_starts)
    return StartingPoint(resolved, checkpoint, weights, record, resumes, trusted_step)


_RESOLVED = {
    "compute.threads": "threads",
    "compute.kernels": "kernels",
    "train.shards_at_once": "shards_at_once",
}
"""Keys of which `auto` is resolved when a run begins, and their names in a checkpoint's state."""


def _kept(name: str, config: Config, begun: Config | None, saved: dict[str, Any]) -> Any:
    """The key as asked for, else as the run has it; None if that is still open."""
    asked = value_of(config, name)
    if asked != "auto":
        return asked
    kept = saved.get(_RESOLVED[name]) or (value_of(begun, name) if begun else None)
    return None if kept == "auto" else kept


def _resolved_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of _RESOLVED that would change bits, as ``key: before -> now``."""
    changed = []
    for name, key in _RESOLVED.items():
        old, new = before.get(key), now[key]
        if key == "shards_at_once" and old not in (None, "auto"):
            # From 2 on all numbers have the same bits, and the native kernel has one set for all.
            is_other = (old == 1) != (new == 1) and now["kernels"] == "torch"
        else:
            is_other = old != new
        if is_other:
            changed.append(f"{name}: {old} -> {new}")
    return changed


def _wandb_id(
    checkpoint: Checkpoint | None, starts: list[dict[str, Any]], trial: Trial | None
) -> str:
    """The run's id on W&B: made at its first start, unless a sweep has chosen it, and kept until a
    new one is asked for."""
    if starts:
        return starts[-1]["wandb_id"]
    if checkpoint:
        return checkpoint.state["wandb_id"]
    return trial.run if trial else secrets.token_hex(4)


def _check_can_go_on(directory: RunDirectory, saved: dict[str, Any], plan: Plan) -> None:
    """Raise RequestError if no run can go on so, not even with other bits."""
    step, of_a_step = saved["step"], plan.batch_size
    if step > plan.total_steps:
        raise RequestError(
            f"{directory.path} has taken {step} steps, more than the {plan.total_steps} asked for;"
            " ask for more, or choose another run.name"
        )
    if saved["samples"] != step * of_a_step:
        raise RequestError(
            f"train.batch_size={of_a_step}: {directory.path} has taken {saved['samples']} samples"
            f" in {step} steps, and a run's steps are of one size; choose another run.name"
        )


def _state_differences(
    before: dict[str, Any], now: dict[str, Any], begun: Config, config: Config
) -> list[str]:
    """The differences of a checkpoint's provenance from the present ones that decide bits.

    `begun`: the config of the newest start. It is not the checkpoint's if that start saved nothing.
    """
    names = {"data_sha256": "data_sha256", "device": "device"}
    of_config = config_changes(begun, config) if before["config_hash"] != now["config_hash"] else []
    if not of_config:
        names["config_hash"] = "config_hash"
    if config.train.reduction == "ddp":
        names["world_size"] = "world size (under train.reduction=ddp)"
    pairs = [(shown, before[name], now[name]) for name, shown in names.items()]
    pairs += [(name, before["versions"].get(name), now["versions"][name]) for name in DECIDE_BITS]
    new = now["kernel_variables"]
    old = before.get("kernel_variables", new)  # Older checkpoints do not say.
    pairs += [(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]
    of_config += _resolved_differences(before, now)
    return of_config + [f"{name}: {old} -> {new}" for name, old, new in pairs if old != new]


def _is_before(line: Line, step: int) -> bool:
    """Whether a line was written before the checkpoint of `step`; evaluations come after it."""
    return line["step"] < step or (line["step"] == step and line["kind"] == "train")


def _lost_lines(metrics: LinesFile, plan: Plan, step: int) -> list[str]:
    """The lines that a run at `step` has written and metrics.jsonl lacks, as a difference."""
    steps = range(1, step + 1)
    expected = {("train", s) for s in steps if plan.is_line_due(s)}
    expected |= {("validation", s) for s in steps[:-1] if plan.is_validation_due(s)}
    lost = expected - {(line["kind"], line["step"]) for line in metrics.read()}
    if not lost:
        return []
    kind, first = min(lost, key=lambda entry: entry[1])
    return [f"{metrics.path} is missing {len(lost)} line(s), first the {kind} line of step {first}"]
