"""Which samples a step sees: a function of (seed, epoch), the same on every process."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lenet_dist.data import counter


def split(seed: int, images: int, validation: int) -> tuple[Tensor, Tensor]:
    """The (training, validation) sample ids, each ascending, int64; together all of them once."""
    shuffled = _permutation(counter.stream(seed, "split"), torch.arange(images))
    return shuffled[validation:].sort().values, shuffled[:validation].sort().values


def order(seed: int, epoch: int, ids: Tensor) -> Tensor:
    """The ids in the order in which epoch number `epoch` (from 0) goes through them."""
    places = torch.arange(len(ids), device=ids.device)
    return ids[_permutation(counter.stream(seed, "order", epoch), places)]


def _permutation(stream: int, places: Tensor) -> Tensor:
    return torch.argsort(counter.bits(stream, places), stable=True)


class GlobalBatches:
    """The ids of the global batch of each step in [first_step, last_step), for a DataLoader.

    Accelerate cuts each into the processes' parts, so it must know the global `batch_size`. There
    is no state: a resume just asks for other steps. Every epoch has only whole batches.
    """

    drop_last = True

    def __init__(
        self, ids: Tensor, *, batch_size: int, seed: int, first_step: int, last_step: int
    ) -> None:
        self.ids = ids
        self.batch_size = batch_size
        self.first_step = first_step
        self.last_step = last_step
        self._of_epoch = functools.lru_cache(2)(
            lambda epoch: order(seed, epoch, ids).split(batch_size)
        )

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def of_step(self, step: int) -> Tensor:
        """The ids of any step's global batch."""
        epoch, position = divmod(step, len(self.ids) // self.batch_size)
        return self._of_epoch(epoch)[position]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.of_step, range(self.first_step, self.last_step))


def loader(
    samples: Dataset[Any], batches: GlobalBatches, samples_by_rank: Sequence[int]
) -> DataLoader[Any]:
    """A loader of global batches, of which Accelerate gives each process its part."""
    batch_ids: Any = PartitionedBatches(batches, samples_by_rank)
    return DataLoader(
        samples,
        batch_sampler=batch_ids,
        collate_fn=lambda batch: batch,  # The data set gives whole batches.
        generator=torch.Generator(),  # Otherwise DataLoader draws from the global one.
    )


class PartitionedBatches:
    """Global batches of which rank r gets the next `samples_by_rank[r]` samples.

    Accelerate cuts a batch evenly, so smaller parts are padded with the id 0. It fetches an image
    like any other id, but the image is never used.
    """

    drop_last = True

    def __init__(self, batches: GlobalBatches, samples_by_rank: Sequence[int]) -> None:
        self.batches = batches
        self.batch_size = len(samples_by_rank) * max(samples_by_rank)
        """Samples in a batch, padding included."""
        ends = torch.tensor(samples_by_rank).cumsum(0)
        places = (
            torch.arange(max(samples_by_rank)) + (ends - torch.tensor(samples_by_rank))[:, None]
        )
        places[places >= ends[:, None]] = -1  # The id that is added at the end.
        self.places = places.flatten().to(batches.ids.device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            is_full = len(batch) == self.batch_size
            yield batch if is_full else F.pad(batch, (0, 1))[self.places]
