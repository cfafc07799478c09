"""A short training that each process does alone, to compare what their machines compute."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.config import Config
from lenet_dist.data import dataset
from lenet_dist.data.dataset import Batch
from lenet_dist.exits import RunFailed
from lenet_dist.plan import validate
from lenet_dist.train.clock import Clock
from lenet_dist.train.cuda_graph import CapturedStep, captures_steps
from lenet_dist.train.gradient_choice import build_shard_gradients, choose_gradients
from lenet_dist.train.local_sums import LocalSums
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.rehearsal import rehearsal
from lenet_dist.train.shard_gradients import COUNTS
from lenet_dist.train.state import build_state
from lenet_dist.train.step_params import StepParams, StepParamsOnDevice, params_of_step
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5
from lenet_dist.train.task_check import Traits

_IMAGES = 2_000
"""About as many are trained on: the first step shows other kernels, the next ones rare faults."""


class ShortTraining:
    """A few of the config's steps on synthetic images. Every process takes whole steps."""

    def __init__(self, config: Config, accelerator: Accelerator) -> None:
        """Build it. A collective, because the model is wrapped as for a run. Nothing is compiled,
        for that takes long."""
        config = replace(config, compute=replace(config.compute, compile=False))
        config = replace(config, train=replace(config.train, reduction="fixed"))
        plan = validate(config, world_size=1)
        self.accelerator = accelerator
        self.is_captured = captures_steps(plan, LENET5, accelerator)
        self.images = images = dataset.synthetic("train").to(accelerator.device)
        self.state = state = build_state(
            LENET5, config, accelerator, Clock(0.0), capturable=self.is_captured
        )
        traits = Traits(classes=10, draws_random_numbers=False)
        choice = choose_gradients(plan, LENET5, state, accelerator, traits, images)
        self.plan = plan = replace(plan, config=choice.resolve(config))
        gradients = build_shard_gradients(choice, plan, LENET5, state, accelerator, traits, images)
        self.local_sums = LocalSums(plan, gradients)

    def weights_sha256(self) -> str:
        """SHA-256 (hex) of the weights after some steps; the same however often it is asked."""
        plan, device = self.plan, self.accelerator.device
        with rehearsal(self.state):
            for step in range(min(plan.total_steps, max(2, _IMAGES // plan.batch_size))):
                first = step * plan.batch_size
                ids = torch.arange(first, first + plan.batch_size, device=device)
                batch = self.images.batch_of(ids % len(self.images))
                params = params_of_step(plan, self.state, step)
                self._update(self._sum(batch, step, params))
            return hashlib.sha256(self.state.flat.detach().cpu().numpy().tobytes()).hexdigest()

    def replay_a_step(self) -> None:
        """Capture a step, with a collective in it, replay it twice, and give the graph back. A
        collective.

        Raises RunFailed if it can't be captured here, or has other bits than an uncaptured one.
        """
        captured = CapturedStep(
            self._step_together, self.state, self.images, self.plan.batch_size, lambda _: False,
            Stopwatch(self.accelerator.device),
        )  # fmt: skip
        params = StepParamsOnDevice(self.plan, self.state).set(0)
        captured.capture(params, self.plan.config.compute, self.accelerator)
        if captured.failure:
            raise RunFailed(f"a step can't be captured: {captured.failure}")
        if captured.graph is None:  # Another process failed, and has no part in what follows.
            return
        found = []
        for _ in range(2):  # Captured, and then not, because release gives the graph back.
            with rehearsal(self.state):
                for _ in range(2):
                    captured(captured.ids, 0, params)
                found.append(self.state.flat.detach().clone())
            captured.release()
        if not torch.equal(*found):
            raise RunFailed("a step that is replayed has other bits than one that is not")

    def _step_together(self, batch: Batch, step: int, params: StepParams) -> StepMetrics:
        total = self.accelerator.gather(self._sum(batch, step, params)[None])[0]
        self._update(total)
        return StepMetrics(total[-2], total[-1], torch.linalg.vector_norm(total))

    def _sum(self, batch: Batch, step: int, params: StepParams) -> Tensor:
        [shards] = self.plan.shards_by_rank
        [(_, total)] = self.local_sums(batch, shards, step, params)
        return total

    def _update(self, total: Tensor) -> None:
        self.state.set_gradient(total[:-COUNTS])
        self.state.scaler.step(self.state.optimizer)
        self.state.scaler.update()
