"""A step captured as a CUDA graph and replayed: one launch for all that a step does.

A network this small keeps a GPU busy for less time than a CPU takes to launch its kernels. Gray,
"Getting started with CUDA graphs", 2019; torch's notes on CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from lenet_dist.config import Compute
from lenet_dist.data.dataset import Batch, Images
from lenet_dist.distributed.accelerator import say
from lenet_dist.plan import Plan
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.rehearsal import REHEARSED, is_undone_by_zeros, rehearsal
from lenet_dist.train.state import TrainState
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5, Task
from lenet_dist.train.task_check import Traits

_WARM_UP_STEPS = 11
"""Rehearsed before the capture: DDP needs this many until its buckets and reducer are settled."""


def captures_steps(plan: Plan, task: Task, accelerator: Accelerator) -> bool:
    """Whether steps are to be captured, and can be. If they can't be, it is said why; if they can,
    all work of this thread goes from now on into a stream that can be captured.

    Call it before the model is wrapped: DDP's part of the backward pass stays on the stream that
    was current then.
    """
    compute = plan.config.compute
    if compute.cuda_graph is False:
        return False
    reason = obstacle(compute, accelerator, task)
    if reason is None:
        torch.cuda.set_stream(torch.cuda.Stream(accelerator.device))
    elif compute.cuda_graph is True or accelerator.device.type == "cuda":
        _say_not_captured(compute, accelerator, reason)
    return reason is None


def can_be_rehearsed(
    plan: Plan, task: Task, accelerator: Accelerator, state: TrainState, traits: Traits
) -> bool:
    """Whether the steps of this model and optimizer can be captured; it is said why not."""
    reason = None
    if traits.draws_random_numbers:
        reason = "the model draws random numbers"
    elif task.optimizer and not is_undone_by_zeros(state.optimizer):
        reason = f"what {type(state.optimizer).__name__} begins with is not known"
    if reason:
        _say_not_captured(plan.config.compute, accelerator, reason)
    return reason is None


def _say_not_captured(compute: Compute, accelerator: Accelerator, reason: str) -> None:
    if compute.cuda_graph == "auto":
        say(accelerator, f"compute.cuda_graph=auto: steps are not captured: {reason}")
    elif accelerator.is_main_process:
        text = f"warning: compute.cuda_graph=true: steps are not captured: {reason}"
        print(text, file=sys.stderr, flush=True)


def obstacle(compute: Compute, accelerator: Accelerator, task: Task) -> str | None:
    """Why steps can't be captured, or are not unless that is asked for; None if they can be."""
    if accelerator.device.type != "cuda":
        return "there is no GPU"
    if task is not LENET5 and compute.cuda_graph == "auto":
        return "a model of your own may not allow it; compute.cuda_graph=true tries"
    if accelerator.num_processes > 1 and torch.distributed.get_backend() != "nccl":
        return f"{torch.distributed.get_backend()}'s collectives can't be captured"
    return None


class CapturedStep:
    """A train step that fetches its images itself, captured and replayed.

    `train_step` computes it. `samples`: how many each process is given of a global batch. A step
    that `is_audited` is not replayed: a graph keeps its sums to itself. The bits are the same.
    """

    def __init__(
        self,
        train_step: Callable[[Batch, int, StepParams], StepMetrics],
        state: TrainState,
        images: Images,
        samples: int,
        is_audited: Callable[[int], bool],
        stopwatch: Stopwatch,
    ) -> None:
        self.train_step = train_step
        self.state = state
        self.images = images
        self.ids = torch.arange(samples, device=images.labels.device) % len(images)
        self.is_audited = is_audited
        self.stopwatch = stopwatch
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: StepMetrics
        self.failure: str | None = None
        """Why this process could not capture it."""

    def __call__(self, ids: Tensor, step: int, params: StepParams) -> StepMetrics:
        """Take step number `step` (from 0) on the samples `ids`, this process's. `params` are
        always the same scalars on the device."""
        if self.graph is None or self.is_audited(step):
            return self.train_step(self.images.batch_of(ids), step, params)
        self.ids.copy_(ids)
        self.graph.replay()
        self.stopwatch.add_replay()
        return StepMetrics(*torch.stack(self.metrics))  # A copy: the next replay overwrites them.

    def capture(self, params: StepParams, compute: Compute, accelerator: Accelerator) -> None:
        """Capture a step before the first one, which leaves the state as it was. A collective: if
        it fails on a process, it is said, and no process replays."""
        graph = torch.cuda.CUDAGraph()
        with rehearsal(self.state):
            for _ in range(_WARM_UP_STEPS):
                self.train_step(self.images.batch_of(self.ids), REHEARSED, params)
            self.state.drop_gradient()  # It is not in the graph's memory.
            try:
                # Other threads, such as NCCL's watchdog, go on using the GPU meanwhile.
                with torch.cuda.graph(
                    graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
                ):
                    batch = self.images.batch_of(self.ids)
                    self.metrics = self.train_step(batch, REHEARSED, params)
                self.graph = graph
            except RuntimeError as error:  # Of a driver, a library, a profiler: steps do without.
                self.failure = " ".join(str(error).split())[:300]
        self.stopwatch.reset()
        failures = {r: text for r, text in enumerate(gather_object([self.failure])) if text}
        for rank, text in list(failures.items())[:1]:
            self.release()
            _say_not_captured(compute, accelerator, f"it failed on rank {rank}: {text}")

    def release(self) -> None:
        """Give the graph back, and go on without. NCCL does not end its connections as long as
        there is a graph with work of theirs."""
        if self.graph is not None:
            torch.cuda.synchronize()
            self.graph.reset()
            self.graph = None
