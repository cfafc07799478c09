"""What a config means on a number of processes: the batch arithmetic, and what is due when."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from lenet_dist.config import TRAINING_IMAGES, Config
from lenet_dist.exits import RequestError


@dataclass(frozen=True)
class Plan:
    """What a config means on `world_size` processes: the batch arithmetic."""

    config: Config
    world_size: int
    training_images: int
    batch_size: int
    shards: int
    steps_per_epoch: int
    total_steps: int

    @property
    def shard_size(self) -> int:
        """Images in one shard."""
        return self.batch_size // self.shards

    @cached_property
    def shards_by_rank(self) -> list[range]:
        """The shards of each process, by rank."""
        return partition(self.shards, self.world_size)

    @property
    def advice(self) -> str | None:
        """What to do if some processes have nothing to compute; None if all have something."""
        idle = self.world_size - self.shards
        if idle <= 0:
            return None
        more = range(self.world_size, self.batch_size + 1)
        fitting = next((n for n in more if self.batch_size % n == 0), None)
        return (
            f"{idle} of {self.world_size} processes have no shard to compute; "
            + (f"train.shards={fitting} would use" if fitting else "no train.shards can use")
            + " them all"
        )

    def epoch_of(self, step: int) -> int:
        """The epoch (from 1) of step number `step` (from 1)."""
        return (step - 1) // self.steps_per_epoch + 1

    def is_line_due(self, step: int) -> bool:
        """Whether a train line is due after step number `step` (from 1)."""
        return step % self.config.log.every_steps == 0 or step == self.total_steps

    def is_save_due(self, step: int) -> bool:
        """Whether a checkpoint is due after step number `step` (from 1), whatever the time."""
        every = self.config.checkpoint.every_steps
        return step == self.total_steps or (every > 0 and step % every == 0)

    def is_validation_due(self, step: int) -> bool:
        """Whether a validation is due after `step` steps."""
        if self.config.data.validation == 0 or step == 0:
            return False
        epoch, rest = divmod(step, self.steps_per_epoch)
        is_epoch_due = rest == 0 and epoch % self.config.evaluate.every_epochs == 0
        return is_epoch_due or step == self.total_steps

    def __str__(self) -> str:
        epochs = self.total_steps / self.steps_per_epoch
        most, least = len(self.shards_by_rank[0]), len(self.shards_by_rank[-1])
        each = _count(most, "shard") if most == least else f"{least} or {_count(most, 'shard')}"
        dropped = self.training_images - self.steps_per_epoch * self.batch_size
        return (
            f"global batch {self.batch_size} = {_count(self.world_size, 'process', 'es')}"
            f" x {each} x {self.shard_size} images; "
            f"{self.training_images} training images = {self.steps_per_epoch} steps an epoch"
            f" ({dropped} left out of each); {epochs:g} epochs = {self.total_steps} steps"
        )


def partition(shards: int, world_size: int) -> list[range]:
    """The shards of each process, by rank: in order, as evenly as possible."""
    each, more = divmod(shards, world_size)
    stops = [each * rank + min(rank, more) for rank in range(1, world_size + 1)]
    return [range(start, stop) for start, stop in pairwise([0, *stops])]


def validate(config: Config, world_size: int, images: int | None = None) -> Plan:
    """The batch arithmetic of a config on `world_size` processes.

    `images`: how many a task's own data set has for training. Raises RequestError if the batch is
    larger than the training set or does not divide evenly; then the text names batch sizes that do.
    """
    train = config.train
    images = (images or TRAINING_IMAGES[config.data.name]) - config.data.validation
    if images < train.batch_size:
        raise RequestError(
            f"data.validation={config.data.validation} leaves {max(images, 0)} training images,"
            f" fewer than train.batch_size={train.batch_size}"
        )
    # Under ddp a process does one backward pass: its share of the batch is its only shard.
    shards = train.shards if train.reduction == "fixed" else world_size
    name = "train.shards" if train.reduction == "fixed" else "the number of processes"
    if rest := train.batch_size % shards:
        below = train.batch_size - rest
        sizes = [str(size) for size in (below, below + shards) if 0 < size <= images]
        too_few = f"there are only {images} training images"
        advice = f"the nearest sizes that can: {' or '.join(sizes)}" if sizes else too_few
        raise RequestError(
            f"train.batch_size={train.batch_size} can't be cut into {name} = {shards} equal parts;"
            f" {advice}"
        )
    steps_per_epoch = images // train.batch_size
    total_steps = train.epochs * steps_per_epoch
    if train.max_steps is not None:
        total_steps = min(total_steps, train.max_steps)
    return Plan(
        config=config,
        world_size=world_size,
        training_images=images,
        batch_size=train.batch_size,
        shards=shards,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
