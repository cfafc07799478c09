"""Exact evaluation: every image once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lenet_dist.data.dataset import CLASSES, Images, pixels
from lenet_dist.training.task import Loss, cross_entropy


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of images: `confusion[label][prediction]` counts, and the loss."""

    confusion: list[list[int]]
    loss: float
    """Mean cross-entropy, nats an image."""

    @property
    def count(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def correct(self) -> int:
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def per_class_accuracy(self) -> list[float | None]:
        """Share of each label's images that are right; None for a label without images."""
        return [
            row[label] / sum(row) if sum(row) else None for label, row in enumerate(self.confusion)
        ]

    def summary(self) -> dict[str, Any]:
        """The fields of an evaluation in metrics.jsonl and result.json."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "correct": self.correct,
            "count": self.count,
            "per_class_accuracy": self.per_class_accuracy,
            "confusion": self.confusion,
        }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Images,
    chunk_size: int,
    accelerator: Accelerator,
    between_chunks: Callable[[], None] = lambda: None,
    loss: Loss = cross_entropy,
) -> Evaluation:
    """Evaluate on all images, in fixed chunks, each computed by a single process.

    The results are summed in the order of the chunks, so that not a bit depends on the number of
    processes or on who did what. `between_chunks` is called equally often on every process.
    """
    model.eval()
    parts = zip(images.images.split(chunk_size), images.labels.split(chunk_size), strict=True)
    chunks = [Images(*part) for part in parts]
    device = accelerator.device
    losses = torch.zeros(len(chunks), dtype=torch.float64, device=device)
    confusion = torch.zeros(CLASSES * CLASSES, dtype=torch.int64, device=device)
    for first in range(0, len(chunks), accelerator.num_processes):
        between_chunks()
        number = first + accelerator.process_index
        if number < len(chunks):
            losses[number], counts = _evaluate_chunk(model, chunks[number], loss)
            confusion += counts
    # Each place sums one process's number and the others' zeros: exact in any order.
    losses, confusion = accelerator.reduce((losses, confusion), "sum")
    total = sum(losses.tolist())
    table: list[list[int]] = confusion.view(CLASSES, CLASSES).tolist()
    return Evaluation(table, total / len(images))


@torch.no_grad()
def _evaluate_chunk(model: nn.Module, chunk: Images, loss: Loss) -> tuple[Tensor, Tensor]:
    """The chunk's summed loss, and how many images it has for each label and prediction."""
    logits = model(pixels(chunk.images))
    cells = chunk.labels * CLASSES + logits.argmax(1)
    counts = torch.bincount(cells, minlength=CLASSES * CLASSES)
    return loss(logits, chunk.labels, 0.0), counts
