"""A step captured as a CUDA graph and replayed: one launch for all that a step does.

A network this small keeps a GPU busy for less time than a CPU takes to launch its kernels. Gray,
"Getting started with CUDA graphs", 2019; torch's notes on CUDA semantics, "CUDA graphs".
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.config import Compute
from lenet_dist.data.dataset import Images
from lenet_dist.training.step import TrainStep
from lenet_dist.training.task import LENET5, Task
from lenet_dist.training.window import StepStats

_WARM_UP_STEPS = 11
"""Taken before the capture: DDP needs this many until its buckets and reducer are settled."""


def obstacle(compute: Compute, accelerator: Accelerator, task: Task) -> str | None:
    """Why steps can't be captured, or are not unless that is asked for; None if they can be."""
    if accelerator.device.type != "cuda":
        return "there is no GPU"
    if task is not LENET5 and compute.cuda_graph == "auto":
        return "a model of your own may not allow it; compute.cuda_graph=true tries"
    if accelerator.num_processes > 1 and torch.distributed.get_backend() != "nccl":
        return f"{torch.distributed.get_backend()}'s collectives can't be captured"
    return None


def enter_side_stream(device: torch.device) -> None:
    """Do all work of this thread from now on in a stream that can be captured.

    Call it before the model is wrapped: DDP's part of the backward pass stays on the stream that
    was current then.
    """
    torch.cuda.set_stream(torch.cuda.Stream(device))


class CapturedStep:
    """A TrainStep that fetches its images itself and, after a few steps, is replayed."""

    def __init__(self, step: TrainStep, images: Images) -> None:
        self.step = step
        self.images = images
        plan = step.plan
        samples = len(plan.shards_by_rank[0]) * plan.shard_size  # Padding included.
        self.ids = torch.zeros(samples, dtype=torch.int64, device=images.labels.device)
        self.steps_to_warm_up = _WARM_UP_STEPS
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stats: StepStats

    def __call__(self, ids: Tensor, step: int) -> StepStats:
        """Take step number `step` (from 0) on the samples `ids`, this process's."""
        if not self.is_replayed(step):
            self.steps_to_warm_up = max(0, self.steps_to_warm_up - 1)
            return self.step(self.images.batch_of(ids), step)
        self.ids.copy_(ids)
        self.step.set_numbers(step)
        if self.graph is None:
            self.graph = self._capture(step)
        self.graph.replay()
        # The next replay overwrites them.
        return StepStats(*(number.clone() for number in self.stats))

    def is_replayed(self, step: int) -> bool:
        """Whether step number `step` is a replay. An audited one is not: a graph keeps its sums to
        itself. It has the same bits either way."""
        audit = self.step.audit
        return self.steps_to_warm_up == 0 and not (audit and audit.is_due(step))

    def _take(self, step: int) -> StepStats:
        return self.step.take(self.images.batch_of(self.ids), step)

    def _capture(self, step: int) -> torch.cuda.CUDAGraph:
        """Capturing runs nothing: the step is taken by the replay."""
        graph = torch.cuda.CUDAGraph()
        self.step.state.flat.grad = None
        # Other threads, such as NCCL's watchdog, go on using the GPU meanwhile.
        with torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            self.stats = self._take(step)
        return graph
