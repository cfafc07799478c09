"""One start of a run: from the request to the result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from lenet_dist.config import Config, keys, value_of
from lenet_dist.data import augment
from lenet_dist.data.dataset import Images, pixels
from lenet_dist.distributed.accelerator import (
    on_each,
    on_each_node,
    on_main,
    peer_watch,
    say,
    start_accelerator,
    stopping_together,
    world_size_of_environment,
)
from lenet_dist.distributed.stop import StopRequest
from lenet_dist.exits import RequestError
from lenet_dist.plan import validate
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.restarts import error_kept
from lenet_dist.track import sample_images
from lenet_dist.track.environment import active_trackers
from lenet_dist.track.follower import followed
from lenet_dist.train.clock import Clock
from lenet_dist.train.task import LENET5, Task
from lenet_dist.train.trainer import Trainer

_MAY_DIFFER = ("data.root", "data.download")
"""Keys that need not be the same on every process: a machine may have the images elsewhere."""


def start_run(
    config: Config, task: Task | None, stop: StopRequest, clock: Clock,
    report: Callable[[RunDirectory], None],
) -> dict[str, Any]:  # fmt: skip
    """Train what the config asks for, from where an earlier start left off. Call on every process.

    Gives the result; a complete run is left alone. `task`: None for LeNet-5. `report` writes the
    page of a new result, on the main process, while the trackers finish. Raises RequestError for
    what can't be done, and Stopped and RunFailed as Trainer.train does.
    """
    task = task or LENET5
    world_size = world_size_of_environment()
    if task.dataset is None:
        validate(config, world_size)
    trackers = active_trackers(config)
    directory = RunDirectory.of(config)
    accelerator = start_accelerator(config.compute)
    with peer_watch(config.compute.timeout_seconds):
        _check_asked_alike(config)
        if config.run.from_ is not None:
            source = on_main(accelerator, lambda: directory.source(config))
            config = replace(config, run=replace(config.run, from_=source))
        result = on_main(accelerator, lambda: directory.completed(config))
        if result is None:
            training_set = _load(task, config, accelerator)
            plan = validate(config, world_size, len(training_set))
            say(accelerator, plan)
            if plan.advice and accelerator.is_main_process:
                print(f"warning: {plan.advice}", file=sys.stderr, flush=True)
            trainer = Trainer(plan, task, accelerator, directory, stop, clock, training_set)
            tracked: AbstractContextManager[Any] = nullcontext()
            if trackers and accelerator.is_main_process:
                tracked = followed(directory.path, trainer.progress.say)
            with stopping_together(accelerator), tracked as complete:
                with error_kept(directory), peer_watch(config.compute.timeout_seconds):
                    result = trainer.train()
                if complete:
                    if "wandb" in trackers:
                        sample_images.keep(directory.path, config)
                    complete()
                if accelerator.is_main_process and config.log.report:
                    report(directory)
        else:
            say(accelerator, f"{directory.path} is complete; nothing to do")
    accelerator.end_training()
    return result


def _load(task: Task, config: Config, accelerator: Accelerator) -> Images:
    """The training images, on this process's device. One process of a node reads them first, so
    that only one fetches what is missing."""
    on_each_node(accelerator, lambda: task.fetch(config))
    images = on_each(lambda: task.load(config, "train"))
    on_each(lambda: augment.check(config.augment, pixels(images.images[:1])))
    return images.to(accelerator.device)


def _check_asked_alike(config: Config) -> None:
    """Raise RequestError, on every process, naming the keys in which one differs from rank 0."""
    asked = {key.name: value_of(config, key.name) for key in keys() if key.name not in _MAY_DIFFER}
    first, *others = gather_object([asked])
    for rank, theirs in enumerate(others, start=1):
        if theirs != first:
            differing = "; ".join(
                f"{name}: {theirs[name]}, on rank 0 {first[name]}"
                for name in first
                if theirs[name] != first[name]
            )
            raise RequestError(f"rank {rank} got a different request: {differing}")
