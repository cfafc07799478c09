"""Where a start begins: it opens the run directory, compares the newest checkpoint with the
request, and takes back everything that was written after that checkpoint."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from accelerate import Accelerator

from lenet_dist import config as configuration
from lenet_dist.config import Config
from lenet_dist.exits import RequestError
from lenet_dist.files import write_atomically
from lenet_dist.machine.place import Place
from lenet_dist.machine.versions import DECIDE_BITS, kernel_variables, versions
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import auto_threads, device_name
from lenet_dist.run import checkpoint as checkpoints
from lenet_dist.run.checkpoint import Checkpoint
from lenet_dist.run.directory import RunDirectory, config_changes, refusal
from lenet_dist.run.lines import Line, LinesFile


@dataclass(frozen=True)
class Beginning:
    """Where a start begins, as the main process found it."""

    checkpoint: Checkpoint | None
    record: dict[str, Any]
    """The circumstances under which the run goes on, as checkpoints and the result record them."""
    resumes: int


def begin(
    plan: Plan,
    accelerator: Accelerator,
    places: list[Place],
    directory: RunDirectory,
    data_sha256: str,
) -> Beginning:
    """Open the run directory and bring it to the state of its newest checkpoint.

    `places`: where the processes of this start are, by rank.
    """
    config = plan.config
    begun = directory.open(config)
    checkpoint: Checkpoint | None = None
    warnings: list[str] = []
    if begun:
        checkpoint, warnings = checkpoints.load_newest(directory.checkpoints)
    step = checkpoint.state["step"] if checkpoint else 0
    threads = _threads(config, begun, checkpoint)
    circumstances = {
        "config_hash": configuration.config_hash(config),
        "data_sha256": data_sha256,
        "world_size": plan.world_size,
        "threads": threads,
        "device": device_name(accelerator),
        "versions": versions(),
        "kernel_variables": kernel_variables(),
    }
    differences = _lost_lines(directory.metrics, plan, step)
    if begun and checkpoint:
        differences += _state_differences(checkpoint.state, circumstances, begun, config)
    elif begun:
        differences += _config_differences(begun, config, threads)
    if differences and not config.run.inexact:
        raise RequestError(refusal(directory.path, differences))
    if checkpoint:
        _check_can_go_on(directory, checkpoint.state, plan)
    for warning in warnings:
        print(f"warning: checkpoint not used: {warning}", file=sys.stderr, flush=True)

    resolved = with_threads(config, threads)
    write_atomically(directory.config, configuration.to_yaml(resolved).encode())
    directory.metrics.keep(lambda line: _is_before(line, step))
    directory.ranks.keep(lambda line: line["step"] <= step)
    directory.starts.keep(lambda line: True)  # Without what a kill cut short.
    earlier_starts = directory.starts.read()
    wandb_id = _wandb_id(checkpoint, earlier_starts)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    directory.starts.write({
        "step": step,
        "world_size": plan.world_size,
        "time": now,
        "wandb_id": wandb_id,
        "places": [asdict(place) for place in places],
    })  # fmt: skip
    was_exact = checkpoint is None or checkpoint.state["bit_exact"]
    bit_exact = was_exact and not differences and config.compute.deterministic
    record = {**circumstances, "wandb_id": wandb_id, "bit_exact": bit_exact}
    return Beginning(checkpoint, record, resumes=len(earlier_starts))


def with_threads(config: Config, threads: int) -> Config:
    """The config with `auto` resolved."""
    return replace(config, compute=replace(config.compute, threads=threads))


def _threads(config: Config, begun: Config | None, checkpoint: Checkpoint | None) -> int:
    """CPU threads per process: as requested, else as the run had, else this node's share."""
    if config.compute.threads != "auto":
        return config.compute.threads
    if checkpoint:
        return checkpoint.state["threads"]
    before = begun.compute.threads if begun else "auto"
    return before if before != "auto" else auto_threads()


def _wandb_id(checkpoint: Checkpoint | None, starts: list[dict[str, Any]]) -> str:
    """The run's id on W&B: made at its first start, and kept until a new one is asked for."""
    if starts:
        return starts[-1]["wandb_id"]
    return checkpoint.state["wandb_id"] if checkpoint else secrets.token_hex(4)


def _config_differences(begun: Config, config: Config, threads: int) -> list[str]:
    before = begun.compute.threads
    of_threads = [f"compute.threads: {before} -> {threads}"] if threads != before else []
    return config_changes(begun, config) + of_threads


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
    """The differences of a checkpoint's circumstances from the present ones that decide bits.

    `begun`: the config of the newest start. It is not the checkpoint's if that start saved nothing.
    """
    names = {"data_sha256": "data_sha256", "device": "device", "threads": "compute.threads"}
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
