"""The trainer: one start of a run, from its newest checkpoint to the end. It reads top to bottom.

Every process of a job runs all of this. A step's global batch is cut into `train.shards` shards,
and each process computes the gradients of its own. They are added along a fixed binary tree, so
the sum, and with it every weight, has the same bits on any number of processes.

Accelerate starts the processes, places the model, wraps it for autocast (and, under
`train.reduction=ddp`, for DDP), cuts batches and gathers; docs/architecture.md says why not more.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from lenet_dist.data import sampler
from lenet_dist.data.dataset import Batch, Images, SampleIds
from lenet_dist.distributed.accelerator import on_each, on_main, place_of
from lenet_dist.distributed.shm_gather import choose_gather
from lenet_dist.distributed.stop import Action, StopConsensus, StopRequest
from lenet_dist.exits import RunFailed, Stopped
from lenet_dist.model import weights
from lenet_dist.model.inference import forward_of
from lenet_dist.plan import Plan
from lenet_dist.run_dir import result
from lenet_dist.run_dir.checkpoint import save_checkpoint
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.run_dir.evaluation import Evaluation
from lenet_dist.track.progress import Progress
from lenet_dist.train.audit import Audit
from lenet_dist.train.clock import Clock
from lenet_dist.train.cuda_graph import CapturedStep, can_be_rehearsed, captures_steps
from lenet_dist.train.ddp_gradient import DdpGradient
from lenet_dist.train.exact_evaluation import evaluate
from lenet_dist.train.gradient_choice import build_shard_gradients, choose_gradients, use_threads
from lenet_dist.train.local_sums import LocalSums
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.resume import resume_or_start
from lenet_dist.train.shard_gradients import COUNTS
from lenet_dist.train.state import build_state
from lenet_dist.train.step_params import StepParams, StepParamsOnDevice
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.stragglers import Stragglers
from lenet_dist.train.task import Task
from lenet_dist.train.task_check import check_task, first_shard
from lenet_dist.train.tree_allreduce import TreeAllReduce, rows_sent


class Trainer:
    """Trains a task as a plan says: `train` is the loop, `train_step` one optimizer step."""

    local_sums: LocalSums | None = None
    ddp_gradient: DdpGradient | None = None
    captured_step: CapturedStep | None = None

    def __init__(
        self, plan: Plan, task: Task, accelerator: Accelerator, directory: RunDirectory,
        stop: StopRequest, clock: Clock, training_set: Images,
    ) -> None:  # fmt: skip
        """Build the parts, in the order in which they depend on each other. A collective.

        Raises RequestError, on every process and before anything is written, if the task, the data
        or the run directory don't allow what was asked for.
        """
        self.task, self.accelerator, self.directory = task, accelerator, directory
        rank, device = accelerator.process_index, accelerator.device
        captures = captures_steps(plan, task, accelerator)

        # Model and optimizer, through accelerator.prepare; then what the model itself does.
        self.state = state = on_each(
            lambda: build_state(task, plan.config, accelerator, clock, capturable=captures)
        )
        self.traits = traits = on_each(
            lambda: check_task(task, plan, state.model, state.prepared, training_set)
        )
        captures = captures and can_be_rehearsed(plan, task, accelerator, state, traits)

        # The run directory: the newest checkpoint, and the kernels and threads the run began with.
        choice = choose_gradients(plan, task, state, accelerator, traits, training_set)
        places = gather_object([place_of(accelerator)])
        stop.training_begins()  # From here on a stop is saved first.
        self.start = on_main(accelerator, lambda: resume_or_start(
            plan, task, state, accelerator, places, directory, choice
        ))  # fmt: skip
        # A config's `auto` is from here on what it meant when the run began.
        self.plan = plan = replace(plan, config=self.start.config)
        self.config = config = plan.config
        use_threads(config)
        self.start.bring(state)
        self.saved_step = state.step if self.start.checkpoint else None
        self.saved_at = time.monotonic()

        # The data: global batches by (seed, step), of which Accelerate gives each process its part,
        # padded if parts are unequal. A captured step fetches its images itself.
        training_ids, validation_ids = sampler.split(
            config.seed, len(training_set), config.data.validation
        )
        self.validation_set = Images(*training_set.batch_of(validation_ids)[:2])
        global_batches = sampler.GlobalBatches(
            training_ids.to(device), batch_size=plan.batch_size, seed=config.seed,
            first_step=state.step, last_step=plan.total_steps,
        )  # fmt: skip
        samples_by_rank = [len(shards) * plan.shard_size for shards in plan.shards_by_rank]
        images = SampleIds() if captures else training_set
        loader = sampler.loader(images, global_batches, samples_by_rank)
        self.batches = accelerator.prepare(loader, device_placement=[False])  # It is in place.

        # The step: gradients of this process's shards, and their sum over all processes.
        self.shards = plan.shards_by_rank[rank]
        self.step_params = StepParamsOnDevice(plan, state)
        self.stopwatch = Stopwatch(device)
        width = state.flat.numel() + COUNTS
        largest = rows_sent(plan.shards_by_rank) * width  # Numbers that a process sends at once.
        self.gather = choose_gather(accelerator, largest, config.compute.timeout_seconds)
        if config.train.reduction == "ddp":
            self.ddp_gradient = DdpGradient(state, task.loss, config, rank, self.stopwatch, traits)
            self.ddp_gradient.warm_up(first_shard(plan, training_set))
        else:
            shard_gradients = build_shard_gradients(
                choice, plan, task, state, accelerator, traits, training_set
            )
            self.local_sums = LocalSums(plan, shard_gradients)
            self.tree_all_reduce = TreeAllReduce(
                plan.shards_by_rank, rank, width, self.gather, self.stopwatch
            )
        self.audit = Audit(
            plan, accelerator, state, self.local_sums, training_set, global_batches,
            directory.checkpoints, self.start.trusted_step,
        )  # fmt: skip
        if captures:
            self.captured_step = CapturedStep(
                self.train_step, state, training_set, max(samples_by_rank),
                self.audit.recomputes, self.stopwatch,
            )  # fmt: skip
            self.captured_step.capture(self.step_params.set(0), config.compute, accelerator)

        # What people see, and how the processes agree to stop.
        self.progress = Progress(
            is_main=accelerator.is_main_process, first_step=state.step, total_steps=plan.total_steps
        )
        self.stragglers = Stragglers(places, [len(shards) for shards in plan.shards_by_rank])
        self.consensus = StopConsensus(stop, accelerator, self.gather)
        if accelerator.is_main_process:
            stop.watch(directory.stop)

    def train(self) -> dict[str, Any]:
        """Train from the state's step to the end, test, and give the result.

        Raises Stopped, with a checkpoint written, if a stop is asked for; RunFailed if the loss is
        not finite, or an audit finds a process that computes wrong.
        """
        state, plan, stopwatch = self.state, self.plan, self.stopwatch
        state.clock.switch("train")
        validation = self.validate_if_due()  # A checkpoint is written before its step's.
        for batch in self.batches:
            if self.audit.is_due(state.step):
                self.audit.compare_weights(state.step)
            began = stopwatch.mark()
            params = self.step_params.set(state.step)
            if self.captured_step:  # On a GPU, the same step as a CUDA graph.
                metrics = self.captured_step(batch, state.step, params)
            else:
                metrics = self.train_step(batch, state.step, params)
            stopwatch.add_step(began)
            state.metrics.add(metrics)
            state.step += 1
            self.progress.advance()
            if plan.is_line_due(state.step):
                self.log()
            action = self.agree()
            if action is Action.AUDIT:
                self.audit.request(state.step)  # The next step.
            if action >= Action.SAVE or plan.is_save_due(state.step):
                self.save()
            if action >= Action.STOP:
                raise self.stopped(action)
            validation = self.validate_if_due()  # The last step has one, if any step has.
        if self.captured_step:
            self.captured_step.release()  # Before the process group.
        return self.finish(validation)

    def train_step(self, batch: Batch, step: int, params: StepParams) -> StepMetrics:
        """One optimizer step: number `step` (from 0), on this process's part of its global batch.

        Nothing here waits for a GPU, unless the step is audited, so that it can be captured.
        """
        state, config = self.state, self.config

        # The mean gradient over the global batch, its summed loss, its correct predictions.
        if self.local_sums:
            # This process's shards are augmented, each has its gradient, and neighbours are added.
            sums = self.local_sums(batch, self.shards, step, params)
            if self.audit.recomputes(step):
                self.audit.compare_sums(step, sums, params)
            total = self.tree_all_reduce(sums)  # The same bits on any number of processes.
        else:
            assert self.ddp_gradient, "train.reduction=ddp"
            total = self.ddp_gradient(batch, step, params)  # Added in DDP's own order.
        gradient, loss_sum, correct = total.split([state.flat.numel(), 1, 1])

        # The update, by every process for itself. All parameters are one vector, state.flat.
        state.set_gradient(gradient)  # As its .grad, no copy: it is unscaled and clipped in place.
        state.scaler.unscale_(state.optimizer)
        grad_norm = torch.linalg.vector_norm(gradient)
        if self.local_sums and gradient.device.type == "cpu":
            # Reading them would wait for a GPU: there state.metrics raises when it reads them.
            self.audit.check_finite(step, loss_sum, grad_norm, sums, params)
        if config.train.clip_norm:
            nn.utils.clip_grads_with_norm_(state.flat, config.train.clip_norm, grad_norm)
        for group, lr in zip(state.optimizer.param_groups, params.lrs, strict=True):
            group["lr"] = lr
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update(params.ema_weight)
        return StepMetrics(loss_sum[0], correct[0], grad_norm)

    def log(self) -> None:
        """Write the lines about the steps since the last ones. A collective."""
        state = self.state
        steps = self.stopwatch.steps  # read_all begins anew.
        seconds = self.stopwatch.read_all(self.gather)
        metrics = state.metrics.line(self.plan, state.step, state.clock.read()["train"])
        if self.accelerator.is_main_process:
            computed, waited = zip(*seconds, strict=True)
            ranks = {"step": state.step, "steps": steps, "computed": computed, "waited": waited}
            self.directory.ranks.write(ranks)  # First: a reader of the train line looks for it.
            for warning in self.stragglers.warnings(computed):
                self.progress.warn(warning)
            line = {**self.position("train"), **metrics}
            self.directory.metrics.write(line)
            self.progress.show_train(line)

    def agree(self) -> Action:
        """What all processes do after this step: the strongest of their wishes. A collective, but
        not at every step."""
        if not self.consensus.is_due(self.state.step):
            return Action.GO_ON
        every = self.config.checkpoint.every_seconds
        if every > 0 and time.monotonic() - self.saved_at >= every:
            return self.consensus.reach(self.state.step, Action.SAVE)
        wish = Action.AUDIT if self.audit.is_overdue() else Action.GO_ON
        return self.consensus.reach(self.state.step, wish)

    def save(self) -> None:
        """Write the checkpoint of this step, unless there is one. A collective."""
        state = self.state
        if self.saved_step == state.step:
            return
        state.metrics.flush(state.step)
        self.audit.compare_weights(state.step)
        if not all(weight.isfinite().all() for weight in state.weights_to_evaluate().values()):
            raise RunFailed(
                f"the weights are not finite after the update at step {state.step};"
                " no checkpoint holds it: lower optimizer.lr"
            )
        record = {
            **self.start.record,
            "samples": state.step * self.plan.batch_size,
            "trusted_step": self.audit.trusted_step,
        }

        def write() -> None:
            self.directory.metrics.sync()
            keep = self.config.checkpoint.keep
            save_checkpoint(self.directory.checkpoints, state.checkpoint(record), keep)

        on_main(self.accelerator, write)
        self.saved_step, self.saved_at = state.step, time.monotonic()

    def stopped(self, action: Action) -> Stopped:
        """End the progress bar and the request. Gives what to raise after a stop that is saved."""
        self.progress.close()
        if self.accelerator.is_main_process:
            # A request stops one start: the next must go on and not find it again.
            self.directory.stop.unlink(missing_ok=True)
        where = f"step {self.state.step} of {self.plan.total_steps}"
        return self.consensus.request.stopped(action, where, self.directory.checkpoints)

    def validate_if_due(self) -> Evaluation | None:
        """Evaluate on the held-out training images, if there are any and it is time to."""
        if not self.plan.is_validation_due(self.state.step):
            return None
        return self.evaluate("validation", self.validation_set)

    def evaluate(self, kind: str, images: Images) -> Evaluation:
        """Evaluate the weights, or their moving average, on every image once. A collective.

        Raises Stopped as `train` does, and RunFailed if the loss is not finite.
        """

        state, config = self.state, self.config

        def between_chunks() -> None:
            action = self.consensus.reach(state.step)
            if action >= Action.STOP:
                self.save()
                raise self.stopped(action)

        self.stopwatch.wait_for_device()  # Or queued steps would count as evaluation.
        previous = state.clock.switch("evaluate")
        # A fresh model: Accelerate has put mixed precision into the one that is trained.
        model = self.task.build(config).to(self.accelerator.device)
        model.load_state_dict(state.weights_to_evaluate())
        evaluation = evaluate(
            forward_of(model, config.compute.kernels), images, self.traits.classes,
            config.evaluate.batch_size, self.accelerator, between_chunks, self.task.loss,
        )  # fmt: skip
        state.clock.switch(previous)
        if not math.isfinite(evaluation.loss):
            raise RunFailed(f"the {kind} loss is {evaluation.loss} after step {state.step}")
        if self.accelerator.is_main_process:
            line = {**self.position(kind), **evaluation.summary()}
            self.directory.metrics.write(line)
            self.progress.show_evaluation(line)
        return evaluation

    def finish(self, validation: Evaluation | None) -> dict[str, Any]:
        """Test, and write weights and result, which makes the run complete. A collective."""
        test_set = on_each(lambda: self.task.load(self.config, "test"))
        test = self.evaluate("test", test_set.to(self.accelerator.device))
        self.progress.close()
        state, model = self.state, self.config.model
        return on_main(
            self.accelerator,
            lambda: result.write(
                self.directory,
                self.plan,
                {**self.start.record, "resumes": self.start.resumes},
                weights=weights.to_bytes(state.weights_to_evaluate(), model.mean, model.std),
                parameters=sum(p.numel() for p in state.model.parameters()),
                test=test.summary(),
                validation=validation.summary() if validation else None,
                seconds=state.clock.read(),
            ),
        )

    def position(self, kind: str) -> dict[str, Any]:
        """Where in the run a line is written."""
        step, plan = self.state.step, self.plan
        samples = step * plan.batch_size
        return {"kind": kind, "step": step, "epoch": plan.epoch_of(step), "samples": samples}
