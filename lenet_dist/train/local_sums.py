"""The sums over a process's shards of a step: augmented, their gradients, added along the tree."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lenet_dist.data.augment import Augmentation
from lenet_dist.data.dataset import Batch, pixels
from lenet_dist.kernels import native
from lenet_dist.plan import Plan
from lenet_dist.train.shard_gradients import NativeKernel, ShardGradients
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.tree_allreduce import Block, Sums, blocks, merge_siblings


class LocalSums:
    """The sums over a process's shards, computed a part of them at a time."""

    def __init__(self, plan: Plan, gradients: ShardGradients) -> None:
        self.plan = plan
        self.gradients = gradients
        self.augmentation = Augmentation(plan.config.augment, plan.config.seed)
        self.inputs = native_inputs if isinstance(gradients, NativeKernel) else model_inputs

    def __call__(self, batch: Batch, shards: range, step: int, params: StepParams) -> Sums:
        """The sums of consecutive `shards` of a step's global batch. `batch`: their samples, in a
        row."""
        return merge_siblings(self._of_parts(batch, shards, step, params), self.plan.shards)

    def _of_parts(
        self, batch: Batch, shards: range, step: int, params: StepParams
    ) -> Iterator[tuple[Block, Tensor]]:
        size = self.plan.shard_size
        for part in parts(shards, self.gradients.at_once):
            first = (part.start - shards.start) * size
            samples = batch.part(first, first + len(part) * size)
            inputs = self.inputs(self.augmentation, samples, params)
            rows = self.gradients(inputs, samples.labels, part, step)
            for block in blocks(part, self.plan.shards):
                of_block = rows[block.first - part.start : block.stop - part.start]
                yield block, self.gradients.tree_sum(of_block)


def model_inputs(augmentation: Augmentation, batch: Batch, params: StepParams) -> Tensor:
    """The samples as the model sees them in a step: augmented."""
    return augmentation.distort(pixels(batch.images), batch.ids, params.stream, params.magnitude)


def native_inputs(augmentation: Augmentation, batch: Batch, params: StepParams) -> Tensor:
    """The samples as `model_inputs` gives them but for the last bits, by the native kernel."""
    ranges = augmentation.config
    is_mnists = batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (28, 28)
    if augmentation.is_identity or not is_mnists:
        return model_inputs(augmentation, batch, params)
    return native.distort(
        batch.images, batch.ids, stream=int(params.stream), strength=float(params.magnitude),
        rotate=ranges.rotate, translate=ranges.translate, scale=ranges.scale, shear=ranges.shear,
        elastic=ranges.elastic,
    )  # fmt: skip


def parts(shards: range, at_once: int) -> list[range]:
    """Consecutive shards in as few parts as can be, of at most `at_once` and of nearly one size."""
    count = -(-len(shards) // at_once)
    stops = [shards.start + len(shards) * (number + 1) // count for number in range(count)]
    starts = [shards.start, *stops]
    return [range(start, stop) for start, stop in zip(starts, stops, strict=False)]
