"""The training loop."""

from __future__ import annotations

import math
import time
from typing import Any

from lenet_dist.data.dataset import Images
from lenet_dist.exits import RunFailed, Stopped
from lenet_dist.model import weights
from lenet_dist.model.inference import forward_of
from lenet_dist.processes.accelerator import on_each, on_main
from lenet_dist.processes.stop import Action
from lenet_dist.run import checkpoint as checkpoints
from lenet_dist.run import result as results
from lenet_dist.run.evaluation import Evaluation
from lenet_dist.run.result import Ended
from lenet_dist.training.evaluation import evaluate
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.job import Job, Saved
from lenet_dist.training.schedule import learning_rate
from lenet_dist.training.window import StepStats


def train(job: Job) -> dict[str, Any]:
    """Train from the state's step to the end, test, and give the result.

    This start may be the run's first or its hundredth, on any number of processes. Raises Stopped,
    with a checkpoint written, if a stop is asked for; RunFailed if the loss is not finite.
    """
    plan, state = job.plan, job.state
    state.clock.switch("train")
    validation = _validate_if_due(job)  # A checkpoint is written before its step's validation.
    for batch in job.batches:
        state.window.add(_take_step(job, batch))
        state.step += 1
        job.progress.advance()
        if plan.is_line_due(state.step):
            _write_ranks_line(job)
            _write_train_line(job)
        action = _agree(job)
        if action is Action.AUDIT:
            job.audit.request(state.step)
        if action >= Action.SAVE or _is_save_due(job):
            _save(job)
        if action >= Action.STOP:
            raise _stopped(job, action)
        validation = _validate_if_due(job)
    test_set = on_each(lambda: job.task.load(plan.config, "test"))
    test = _evaluate(job, "test", test_set.to(job.accelerator.device))
    return on_main(job.accelerator, lambda: _write_result(job, validation, test))


def _take_step(job: Job, batch: Any) -> StepStats:
    step, take_step = job.state.step, job.take_step
    if job.audit.is_due(step):
        job.audit.compare_weights(step)
    began = job.stopwatch.mark()
    is_replayed = isinstance(take_step, CapturedStep) and take_step.is_replayed(step)
    stats = take_step(batch, step)
    job.stopwatch.add_step(began, is_replayed=is_replayed)
    return stats


def _write_train_line(job: Job) -> None:
    config, state = job.plan.config, job.state
    sums = state.window.settle(state.step)
    samples = ((state.step - 1) % config.log.every_steps + 1) * job.plan.batch_size
    train_seconds = state.clock.read()["train"]
    line = {
        **_position(job, "train"),
        "loss": sums["loss_sum"] / samples,
        "accuracy": sums["correct"] / samples,
        "lr": learning_rate(
            config.schedule, config.optimizer.lr, state.step - 1, job.plan.total_steps
        ),
        "grad_norm": sums["grad_norm"],
        "samples_per_second": samples / (train_seconds - sums["train_seconds"]),
    }
    if config.compute.precision == "fp16":
        line["skipped_steps"] = sums["skipped_steps"]
    state.window.reset(train_seconds)
    if job.accelerator.is_main_process:
        job.directory.metrics.write(line)
        job.progress.show_train(line)


def _write_ranks_line(job: Job) -> None:
    """Before the train line: whoever reads that one may look for this one."""
    step, steps = job.state.step, job.stopwatch.steps
    seconds = job.stopwatch.read_all(job.gather)
    if job.accelerator.is_main_process:
        computed, waited = zip(*seconds, strict=True)
        line = {"step": step, "steps": steps, "computed": computed, "waited": waited}
        job.directory.ranks.write(line)
        for warning in job.slow_ranks.warnings(computed):
            job.progress.warn(warning)


def _position(job: Job, kind: str) -> dict[str, Any]:
    step = job.state.step
    samples = step * job.plan.batch_size
    return {"kind": kind, "step": step, "epoch": job.plan.epoch_of(step), "samples": samples}


def _agree(job: Job) -> Action:
    """What all processes do at this step boundary."""
    if not job.agreement.is_due(job.state.step):
        return Action.GO_ON
    every = job.plan.config.checkpoint.every_seconds
    is_late = every > 0 and time.monotonic() - job.saved.time >= every
    wish = Action.AUDIT if job.audit.is_overdue() else Action.GO_ON
    return job.agreement.reach(job.state.step, Action.SAVE if is_late else wish)


def _is_save_due(job: Job) -> bool:
    step, every = job.state.step, job.plan.config.checkpoint.every_steps
    return step == job.plan.total_steps or (every > 0 and step % every == 0)


def _save(job: Job) -> None:
    """Write the checkpoint of this step, unless there is one."""
    state = job.state
    if job.saved.step == state.step:
        return
    state.window.settle(state.step)
    job.audit.compare_weights(state.step)
    if not all(weight.isfinite().all() for weight in state.weights().values()):
        raise RunFailed(
            f"the weights are not finite after the update at step {state.step};"
            " no checkpoint holds it: lower optimizer.lr"
        )
    on_main(job.accelerator, lambda: _write_checkpoint(job))
    job.saved = Saved(state.step, time.monotonic())


def _write_checkpoint(job: Job) -> None:
    job.directory.metrics.sync()
    position = {
        "samples": job.state.step * job.plan.batch_size,
        "trusted_step": job.audit.trusted_step,
    }
    checkpoint = job.state.checkpoint({**position, **job.beginning.record})
    checkpoints.save(job.directory.checkpoints, checkpoint, job.plan.config.checkpoint.keep)


def _stopped(job: Job, action: Action) -> Stopped:
    job.progress.close()
    if job.accelerator.is_main_process:
        # A request stops one start: the next must go on and not find it again.
        job.directory.stop.unlink(missing_ok=True)
    request = job.agreement.request
    request.is_made()  # Another process may have seen it first: a launcher that is gone, say.
    reason = request.reason or "a request to another process"
    return Stopped(
        f"stopped by {reason} after step {job.state.step} of {job.plan.total_steps};"
        f" saved in {job.directory.checkpoints}; run the same command again to continue",
        for_good=action is Action.STOP_FOR_GOOD,
    )


def _validate_if_due(job: Job) -> Evaluation | None:
    if not job.plan.is_validation_due(job.state.step):
        return None
    return _evaluate(job, "validation", job.validation)


def _evaluate(job: Job, kind: str, images: Images) -> Evaluation:
    def between_chunks() -> None:
        action = job.agreement.reach(state.step)
        if action >= Action.STOP:
            _save(job)
            raise _stopped(job, action)

    config, state = job.plan.config, job.state
    previous = state.clock.switch("evaluate")
    # A fresh model: Accelerate has put mixed precision into the one that is trained.
    model = job.task.build(config).to(job.accelerator.device)
    model.load_state_dict(state.weights())
    evaluation = evaluate(
        forward_of(model, config.compute.kernels), images, job.classes,
        config.evaluate.batch_size, job.accelerator, between_chunks, job.task.loss,
    )  # fmt: skip
    state.clock.switch(previous)
    if not math.isfinite(evaluation.loss):
        raise RunFailed(f"the {kind} loss is {evaluation.loss} after step {state.step}")
    if job.accelerator.is_main_process:
        line = {**_position(job, kind), **evaluation.summary()}
        job.directory.metrics.write(line)
        job.progress.show_evaluation(line)
    return evaluation


def _write_result(job: Job, validation: Evaluation | None, test: Evaluation) -> dict[str, Any]:
    scale = job.plan.config.model
    ended = Ended(
        weights=weights.to_bytes(job.state.weights(), scale.mean, scale.std),
        parameters=sum(p.numel() for p in job.state.model.parameters()),
        test=test.summary(),
        validation=validation.summary() if validation else None,
        seconds=job.state.clock.read(),
    )
    job.progress.close()
    record = {**job.beginning.record, "resumes": job.beginning.resumes}
    return results.write(job.directory, job.plan, record, ended)
