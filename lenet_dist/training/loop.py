"""The training loop."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import Any

from lenet_dist import config as configuration
from lenet_dist.data import dataset
from lenet_dist.data.dataset import Images
from lenet_dist.exits import RunFailed, Stopped
from lenet_dist.files import write_atomically
from lenet_dist.model import weights
from lenet_dist.model.lenet5 import PARAMETERS, LeNet5
from lenet_dist.runtime.accelerator import device_name, on_each, on_main
from lenet_dist.runtime.hardware import cores, cpu_name
from lenet_dist.runtime.stop import Action, agree, is_agreement_due
from lenet_dist.runtime.versions import git_commit, versions
from lenet_dist.training import checkpoint as checkpoints
from lenet_dist.training.evaluation import Evaluation, evaluate
from lenet_dist.training.job import Job
from lenet_dist.training.schedule import learning_rate


def train(job: Job) -> dict[str, Any]:
    """Train from `job.step` to the end, test, and give the result.

    This start may be the run's first or its hundredth, on any number of processes. Raises Stopped,
    with a checkpoint written, if a stop is asked for; RunFailed if the loss is not finite.
    """
    job.clock.switch("train")
    validation = _validate_if_due(job)  # A checkpoint comes before the validation of its step.
    for batch in job.batches:
        stats = job.take_step(batch, job.step)
        job.window.add(stats)
        job.step += 1
        job.progress.advance()
        if job.plan.is_line_due(job.step):
            _write_train_line(job)
        action = _agree(job)
        if action is not Action.GO_ON or _is_save_due(job):
            _save(job)
        if action >= Action.STOP:
            raise _stopped(job, action)
        validation = _validate_if_due(job)
    test_set = on_each(job.accelerator, lambda: dataset.load(job.config.data, "test"))
    test = _evaluate(job, "test", test_set.to(job.accelerator.device))
    return on_main(job.accelerator, lambda: _write_result(job, validation, test))


def _write_train_line(job: Job) -> None:
    sums = job.window.settle(job.step)
    every, batch_size = job.config.log.every_steps, job.plan.batch_size
    samples = ((job.step - 1) % every + 1) * batch_size
    train_seconds = job.clock.read()["train"]
    line = {
        **_position(job, "train"),
        "loss": sums["loss_sum"] / samples,
        "accuracy": sums["correct"] / samples,
        "lr": learning_rate(
            job.config.schedule, job.config.optimizer.lr, job.step - 1, job.plan.total_steps
        ),
        "grad_norm": sums["grad_norm"],
        "samples_per_second": samples / (train_seconds - sums["train_seconds"]),
    }
    if job.config.compute.precision == "fp16":
        line["skipped_steps"] = sums["skipped_steps"]
    job.window.reset(train_seconds)
    if job.accelerator.is_main_process:
        job.metrics.write(line)
        job.progress.show_train(line)


def _position(job: Job, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "step": job.step,
        "epoch": job.plan.epoch_of(job.step),
        "samples": job.step * job.plan.batch_size,
    }


def _agree(job: Job) -> Action:
    """What all processes do at this step boundary."""
    if not is_agreement_due(job.step, job.plan.world_size):
        return Action.GO_ON
    every = job.config.checkpoint.every_seconds
    is_late = every > 0 and time.monotonic() - job.last_save >= every
    wish = max(job.stop.wish(), Action.SAVE if is_late else Action.GO_ON)
    return agree(job.accelerator, job.gather, wish)


def _is_save_due(job: Job) -> bool:
    every = job.config.checkpoint.every_steps
    return job.step == job.plan.total_steps or (every > 0 and job.step % every == 0)


def _save(job: Job) -> None:
    """Write the checkpoint of this step, unless it is there."""
    if job.saved_step == job.step:
        return
    job.window.settle(job.step)
    if not all(weight.isfinite().all() for weight in job.weights().values()):
        raise RunFailed(
            f"the weights are not finite after the update at step {job.step};"
            " no checkpoint holds it: lower optimizer.lr"
        )
    on_main(job.accelerator, lambda: _write_checkpoint(job))
    job.last_save = time.monotonic()
    job.saved_step = job.step


def _write_checkpoint(job: Job) -> None:
    job.metrics.sync()
    checkpoints.save(job.directory.checkpoints, job.checkpoint(), job.config.checkpoint.keep)


def _stopped(job: Job, action: Action) -> Stopped:
    job.progress.close()
    if job.accelerator.is_main_process:
        # Honoured once: the next start is to go on, not to find the request again.
        job.directory.stop.unlink(missing_ok=True)
    return Stopped(
        f"stopped by {job.stop.reason or 'a request to another process'} after step {job.step} of"
        f" {job.plan.total_steps}; saved in {job.directory.checkpoints};"
        " run the same command again to continue",
        for_good=action is Action.STOP_FOR_GOOD,
    )


def _validate_if_due(job: Job) -> Evaluation | None:
    if not job.plan.is_validation_due(job.step):
        return None
    return _evaluate(job, "validation", job.validation)


def _evaluate(job: Job, kind: str, images: Images) -> Evaluation:
    def between_chunks() -> None:
        action = agree(job.accelerator, job.gather, job.stop.wish())
        if action >= Action.STOP:
            _save(job)
            raise _stopped(job, action)

    previous = job.clock.switch("evaluate")
    model = LeNet5(job.config.model.mean, job.config.model.std).to(job.accelerator.device)
    model.load_state_dict(job.weights())
    chunk_size = job.config.evaluate.batch_size
    evaluation = evaluate(model, images, chunk_size, job.accelerator, between_chunks)
    job.clock.switch(previous)
    if not math.isfinite(evaluation.loss):
        raise RunFailed(f"the {kind} loss is {evaluation.loss} after step {job.step}")
    if job.accelerator.is_main_process:
        line = {**_position(job, kind), **evaluation.summary()}
        job.metrics.write(line)
        job.progress.show_evaluation(line)
    return evaluation


def _write_result(job: Job, validation: Evaluation | None, test: Evaluation) -> dict[str, Any]:
    content = weights.to_bytes(job.weights(), job.config.model.mean, job.config.model.std)
    write_atomically(job.directory.weights, content)
    job.metrics.sync()
    seconds = job.clock.read()
    samples = job.step * job.plan.batch_size
    result = {
        "status": "completed",
        "test": test.summary(),
        "validation": validation.summary() if validation else None,
        "parameters": PARAMETERS,
        "steps": job.step,
        "epochs": job.step / job.plan.steps_per_epoch,
        "samples": samples,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "bit_exact": job.bit_exact,
        "resumes": job.resumes,
        "world_size": job.plan.world_size,
        "device": device_name(job.accelerator),
        "hardware": f"{cpu_name()}, {cores()} cores",
        "precision": job.config.compute.precision,
        "threads": job.config.compute.threads,
        "seconds": seconds,
        "samples_per_second": samples / seconds["train"],
        "config_hash": configuration.config_hash(job.config),
        "data_sha256": job.data_sha256,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_atomically(job.directory.result, json.dumps(result, indent=1).encode())
    job.progress.close()
    return result
