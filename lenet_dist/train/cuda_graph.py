"""A step captured as a CUDA graph and replayed: one launch for all that a step does.

A network this small keeps a GPU busy for less time than a CPU takes to launch its kernels. Gray,
"Getting started with CUDA graphs", 2019; torch's notes on CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.config import Compute
from lenet_dist.data.dataset import Batch, Images
from lenet_dist.distributed.accelerator import say
from lenet_dist.plan import Plan
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5, Task

_WARM_UP_STEPS = 11
"""Taken before the capture: DDP needs this many until its buckets and reducer are settled."""


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
    if reason and compute.cuda_graph is True and accelerator.is_main_process:
        print(
            f"warning: compute.cuda_graph=true: steps are not captured: {reason}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    elif reason and accelerator.device.type == "cuda":
        say(accelerator, f"compute.cuda_graph=auto: steps are not captured: {reason}")
    if reason is None:
        torch.cuda.set_stream(torch.cuda.Stream(accelerator.device))
    return reason is None


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
    """A train step that fetches its images itself and, after a few steps, is replayed.

    `train_step` computes it. `samples`: how many each process is given of a global batch. A step
    that `is_audited` is not replayed: a graph keeps its sums to itself. The bits are the same.
    """

    def __init__(
        self,
        train_step: Callable[[Batch, int, StepParams], StepMetrics],
        optimizer: torch.optim.Optimizer,
        images: Images,
        samples: int,
        is_audited: Callable[[int], bool],
        stopwatch: Stopwatch,
    ) -> None:
        self.train_step = train_step
        self.optimizer = optimizer
        self.images = images
        self.ids = torch.zeros(samples, dtype=torch.int64, device=images.labels.device)
        self.is_audited = is_audited
        self.stopwatch = stopwatch
        self.steps_to_warm_up = _WARM_UP_STEPS
        self.graph: torch.cuda.CUDAGraph | None = None
        self.metrics: StepMetrics

    def __call__(self, ids: Tensor, step: int, params: StepParams) -> StepMetrics:
        """Take step number `step` (from 0) on the samples `ids`, this process's. `params` are
        always the same scalars on the device."""
        if self.steps_to_warm_up or self.is_audited(step):
            self.steps_to_warm_up = max(0, self.steps_to_warm_up - 1)
            return self.train_step(self.images.batch_of(ids), step, params)
        self.ids.copy_(ids)
        if self.graph is None:
            self.graph = self._capture(step, params)
        self.graph.replay()
        self.stopwatch.add_replay()
        # The next replay overwrites them.
        return StepMetrics(*(number.clone() for number in self.metrics))

    def _capture(self, step: int, params: StepParams) -> torch.cuda.CUDAGraph:
        """Capturing runs nothing: the step is taken by the replay."""
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()  # Those of the last step are not in the graph's memory.
        # Other threads, such as NCCL's watchdog, go on using the GPU meanwhile.
        with torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self.metrics = self.train_step(self.images.batch_of(self.ids), step, params)
        return graph
