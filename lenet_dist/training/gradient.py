"""The gradient of a step's global batch: shard by shard in a fixed order, or by DDP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from lenet_dist.config import Config, Train
from lenet_dist.data.dataset import Batch, Images, pixels
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import say
from lenet_dist.training import rows as rows_of_shards
from lenet_dist.training.optimizer import weights_of
from lenet_dist.training.reduction import Block, ShardSum, block_sum, blocks
from lenet_dist.training.rows import COUNTS, ByAutograd, ByHand, Rows, is_bit_equal, one_by_one
from lenet_dist.training.state import TrainState
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import LENET5, Task
from lenet_dist.training.threads import settle_threads

_IMAGES_AT_ONCE = {"cpu": 256, "cuda": 1024}
"""With fewer, more time goes to overhead around the kernels. More do not fit into a CPU's caches;
on a GPU, processes that have fewer would compute more in vain (see `filled`)."""

Gradient = Callable[[Batch, Callable[[Batch], Tensor]], Tensor]
"""The row [P + COUNTS] of the global batch, from this process's share of it and a function that
makes inputs [n, 1, 28, 28] of any part of it. Under DDP the row's loss and hits are the share's.
A collective."""


class ByShards:
    """The same bits on any number of processes: the share is computed in blocks of shards, and the
    order of the sums depends neither on who has which block nor on their size."""

    def __init__(self, rows: Rows, blocks: list[Block], shard_size: int, total: ShardSum) -> None:
        self.rows = rows
        self.blocks = blocks
        self.sizes = [(block.stop - block.first) * shard_size for block in blocks]
        self.total = total
        self._watched_shard: int | None = None
        self._watched: list[Tensor] = []

    def __call__(self, share: Batch, inputs_of: Callable[[Batch], Tensor]) -> Tensor:
        """See Gradient."""
        return self.total(self._sums(share, inputs_of))

    def row_of(self, shard: Batch, inputs_of: Callable[[Batch], Tensor]) -> Tensor:
        """The row [P + COUNTS] of any shard, computed alone."""
        return self.rows(inputs_of(shard), shard.labels, 1)[0]

    @contextmanager
    def watching(self, shard: int | None) -> Iterator[list[Tensor]]:
        """Give the row of one of this process's shards as the body's step computes it."""
        self._watched_shard, self._watched = shard, []
        yield self._watched
        self._watched_shard = None

    def _sums(
        self, share: Batch, inputs_of: Callable[[Batch], Tensor]
    ) -> Iterator[tuple[Block, Tensor]]:
        for block, part in zip(self.blocks, share.split(self.sizes), strict=True):
            rows = self.rows(inputs_of(part), part.labels, block.stop - block.first)
            watched = self._watched_shard
            if watched is not None and block.first <= watched < block.stop:
                self._watched.append(rows[watched - block.first].clone())
            yield block, block_sum(rows)


class ByDdp:
    """DDP's own all-reduce, overlapped with the backward pass; it sums in its own order."""

    def __init__(self, state: TrainState, task: Task, train: Train, stopwatch: Stopwatch) -> None:
        self.model = state.wrapped
        self.parameters = list(self.model.parameters())
        self.scaler = state.scaler
        self.loss = task.loss
        self.smoothing = train.label_smoothing
        self.stopwatch = stopwatch
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def __call__(self, share: Batch, inputs_of: Callable[[Batch], Tensor]) -> Tensor:
        """See Gradient."""
        logits = self.model(inputs_of(share))
        loss_sum = self.loss(logits, share.labels, self.smoothing)
        self.scaler.scale(loss_sum / len(share.labels)).backward()
        self.stopwatch.add_wait(self._last_gradient)
        found = [p.grad for p in self.parameters if p.grad is not None]
        row = rows_of_shards.row(*found, loss_sum, rows_of_shards.correct(logits, share.labels))
        for parameter in self.parameters:
            parameter.grad = None
        return row

    def _note_gradient(self, _: Tensor) -> None:
        """Called for each gradient: after the last one, DDP waits for the other processes."""
        self._last_gradient = self.stopwatch.mark()


def build(
    plan: Plan,
    accelerator: Accelerator,
    task: Task,
    state: TrainState,
    stopwatch: Stopwatch,
    samples: Images,
) -> Gradient:
    """The gradient that the config asks for; it says how shards are computed here. A collective.

    `samples`: images and labels to try the passes on.
    """
    train, device = plan.config.train, accelerator.device
    # A plan for one process is computed by each alone.
    rank = accelerator.process_index if plan.world_size > 1 else 0
    if train.reduction == "ddp" and plan.world_size > 1:
        return ByDdp(state, task, train, stopwatch)
    width = weights_of(state.optimizer).numel() + COUNTS
    total = ShardSum(plan.dealt, rank, width, stopwatch.gather, device)
    at_once = shards_at_once(plan, device)
    mine = blocks(plan.dealt[rank], plan.shards, at_once)
    rows: Rows
    if task is not LENET5 or not is_by_hand(plan.config, device):
        rows = _separately(ByAutograd(accelerator, state, task, train), device)
        say(accelerator, f"shards are computed {_separate(device)}, by autograd")
    elif train.reduction == "ddp":
        by_hand = ByHand(cast(LeNet5, state.model), train)
        rows = one_by_one(by_hand.of_all)
    else:
        rows = ByHand(cast(LeNet5, state.model), train)
        if device.type == "cuda":
            rows = rows_of_shards.filled(rows, min(at_once, plan.shards))
        else:
            asked = torch.get_num_threads()
            settled = settle_threads(lambda: _alone(rows, plan, state.model, samples))
            _say_threads(accelerator, asked, settled)
        is_equal = _is_bit_equal(rows, mine, plan.shard_size, samples)
        _say_how(accelerator, mine, is_equal)
        rows = rows if is_equal else _separately(rows, device)
    return ByShards(rows, mine, plan.shard_size, total)


def is_by_hand(config: Config, device: torch.device) -> bool:
    """Whether LeNet-5's written-out passes can be used: they are for float32 on a CPU or a GPU."""
    compute = config.compute
    return device.type in _IMAGES_AT_ONCE and compute.precision == "no" and not compute.compile


def shards_at_once(plan: Plan, device: torch.device) -> int:
    """The most shards that are computed at once, a power of two, on any number of processes."""
    fitting = _IMAGES_AT_ONCE.get(device.type, 1) // plan.shard_size
    return 1 << fitting.bit_length() - 1 if fitting else 1


def _separately(row_of_shard: rows_of_shards.RowOfShard, device: torch.device) -> Rows:
    if device.type == "cuda":
        return rows_of_shards.side_by_side(row_of_shard, device)
    return one_by_one(row_of_shard)


def _separate(device: torch.device) -> str:
    return "side by side" if device.type == "cuda" else "one by one"


def _alone(rows: Rows, plan: Plan, model: nn.Module, samples: Images) -> Tensor:
    """The numbers of one shard, and the logits of a chunk of an evaluation."""
    images = pixels(samples.images[: max(plan.shard_size, plan.config.evaluate.batch_size)])
    shard = slice(plan.shard_size)
    with torch.no_grad():
        logits = model(images[: plan.config.evaluate.batch_size])
    return torch.cat([rows(images[shard], samples.labels[shard]).flatten(), logits.flatten()])


def _is_bit_equal(rows: Rows, mine: list[Block], shard_size: int, samples: Images) -> bool:
    for shards in {block.stop - block.first for block in mine}:
        count = shards * shard_size
        inputs, labels = pixels(samples.images[:count]), samples.labels[:count]
        if not is_bit_equal(rows, inputs, labels, shards):
            return False
    return True


def _say_threads(accelerator: Accelerator, asked: int, settled: int) -> None:
    fewest = min(gather_object([settled]))
    if fewest < asked:
        say(accelerator, f"{fewest} CPU threads instead of {asked}, which give other bits here")


def _say_how(accelerator: Accelerator, mine: list[Block], is_equal: bool) -> None:
    unequal = [rank for rank, equal in enumerate(gather_object([is_equal])) if not equal]
    at_once = max((block.stop - block.first for block in mine), default=0)
    if unequal:
        say(
            accelerator,
            f"shards are computed {_separate(accelerator.device)}"
            f" on {_ranks(unequal, accelerator.num_processes)},"
            " because many at once give different bits there; slower, but the result is the same",
        )
    elif at_once > 1:
        say(accelerator, f"{at_once} shards are computed at once, with the same bits as one by one")


def _ranks(ranks: list[int], world_size: int) -> str:
    return "every rank" if len(ranks) == world_size else f"ranks {', '.join(map(str, ranks))}"
