"""A trial of a W&B sweep, as `wandb agent` tells the processes that it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lenet_dist.config import Config, Wandb
from lenet_dist.request import check_name


@dataclass(frozen=True)
class Trial:
    """One set of a sweep's values. `run`: its run's id on W&B, which the sweep has chosen."""

    sweep: str
    run: str

    @classmethod
    def of_environment(cls) -> Trial | None:
        """The trial that this process is to run; None if no agent has started it."""
        sweep, run = (os.environ.get(name) for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"))
        return cls(sweep, run) if sweep and run else None

    def record(self) -> dict[str, Any]:
        """What a run keeps of it beside the id: the sweep, and the trial's values as the sweep
        names them, because a sweep looks for them in its runs' configs."""
        file = os.environ.get("WANDB_SWEEP_PARAM_PATH")
        told = yaml.safe_load(Path(file).read_text()) if file and Path(file).exists() else None
        values = {name: e["value"] for name, e in (told or {}).items() if isinstance(e, dict)}
        return {"id": self.sweep, "values": values}


def named_after_trial(config: Config) -> Config:
    """The config of a trial's run: named after its sweep and itself, and in the sweep's project.
    Without an agent, the config as it is."""
    trial = Trial.of_environment()
    if trial is None:
        return config
    name, end = config.run.name, f"-{trial.sweep}-{trial.run}"
    check_name(name := name.removesuffix(end) + end)
    project, entity = config.wandb.project, config.wandb.entity
    if project == Wandb().project:
        project = os.environ.get("WANDB_PROJECT") or project
    entity = entity or os.environ.get("WANDB_ENTITY") or None
    where = replace(config.wandb, project=project, entity=entity)
    return replace(config, run=replace(config.run, name=name), wandb=where)
