"""What is trained: a model, its loss, its data and its optimizer. The seam for a project of your
own (docs/your-own.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist.config import Config
from lenet_dist.data import dataset, fetch
from lenet_dist.data.dataset import Images, Split
from lenet_dist.exits import RequestError
from lenet_dist.model.initialisation import seeded
from lenet_dist.model.lenet5 import LeNet5

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""From logits, labels and ``train.label_smoothing``, the loss summed over the samples: a scalar."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits [n, C] and labels [n], summed over the samples: a scalar."""
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def cross_entropy_of_classes(classes: int, smoothing: float, device: torch.device) -> Loss:
    """`cross_entropy` for a GPU, with the label's row of a table for a target: torch.func makes six
    kernels of it, and 33 of torch's own, which looks for labels to ignore."""
    smooth = smoothing / classes
    table = -torch.eye(classes, device=device) * (1 - smoothing) - smooth

    def loss(logits: Tensor, labels: Tensor, _: float) -> Tensor:
        rows = logits.log_softmax(1) * F.embedding(labels, table)
        return rows.sum(dtype=rows.dtype)

    return loss


@dataclass(frozen=True)
class Task:
    """What is trained; what is left out is the config's.

    `model` makes the model from the config, on the CPU, with torch's random numbers seeded by the
    config's seed. It gives logits [n, C] of a batch of images: uint8 images come as float32 in
    [0, 1], those [N, h, w] with one channel [n, 1, h, w]; float images come as they are. An
    image's logits must not depend on the rest of the batch.

    `dataset` gives images [N, ...], uint8 or float, and labels int64 [N] of a split. `optimizer`
    makes a torch optimizer, with parameter groups if you like, from the trainable parameters; each
    group's learning rate is the peak of its schedule.
    """

    model: Callable[[Config], nn.Module]
    loss: Loss = cross_entropy
    dataset: Callable[[Config, Split], tuple[Tensor, Tensor]] | None = None
    optimizer: Callable[[Config, NamedParameters], torch.optim.Optimizer] | None = None

    def build(self, config: Config) -> nn.Module:
        """The model with its first weights, a function of the seed."""
        with seeded(config.seed):
            return self.model(config)

    def fetch(self, config: Config) -> None:
        """Provide what `load` reads, on one process of a node while the others wait."""
        if self.dataset is None:
            fetch.ensure(config.data)
        else:
            self.load(config, "train")

    def load(self, config: Config, split: Split) -> Images:
        """The images and labels of a split.

        Raises RequestError if the task's own data set is not as Task says.
        """
        if self.dataset is None:
            return dataset.load(config.data, split)
        images, labels = self.dataset(config, split)
        wrong = _what_is_wrong(images, labels)
        if wrong:
            raise RequestError(f"the task's dataset for {split!r}: {wrong}")
        return Images(images, labels)

    def data_hash(self, config: Config) -> str:
        """SHA-256 (hex) of the data set, test images included."""
        if self.dataset is None:
            return dataset.data_hash(config.data)
        return dataset.hash_of([self.load(config, split) for split in ("train", "test")])


def _what_is_wrong(images: Tensor, labels: Tensor) -> str | None:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        return "it must give two tensors, images and labels"
    if images.dtype not in (torch.uint8, torch.float32):
        return f"images are {images.dtype}; they must be uint8 or float32"
    if labels.dtype != torch.int64 or labels.dim() != 1:
        return f"labels are {labels.dtype} {list(labels.shape)}; they must be int64 [N]"
    if len(images) != len(labels) or not len(labels):
        return f"{len(images)} images and {len(labels)} labels; it needs as many of each, and some"
    if labels.min() < 0:
        return f"a label is {labels.min()}; labels count from 0"
    return None


LENET5 = Task(lambda config: LeNet5(config.model.mean, config.model.std))
"""The task of this project, and the only one that the native kernel computes (kernels/)."""
