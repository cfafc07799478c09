"""Exact evaluation: every image once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.data.dataset import Images, pixels
from lenet_dist.run_dir.evaluation import Evaluation
from lenet_dist.train.task import Loss, cross_entropy


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor],
    images: Images,
    classes: int,
    chunk_size: int,
    accelerator: Accelerator,
    between_chunks: Callable[[], None] = lambda: None,
    loss: Loss = cross_entropy,
) -> Evaluation:
    """Evaluate on all images, in fixed chunks, each computed by a single process. `model` gives
    logits [n, classes] of pixels.

    The results are summed in the order of the chunks, so that not a bit depends on the number of
    processes or on who did what. `between_chunks` is called equally often on every process.
    """
    parts = zip(images.images.split(chunk_size), images.labels.split(chunk_size), strict=True)
    chunks = [Images(*part) for part in parts]
    device = accelerator.device
    losses = torch.zeros(len(chunks), dtype=torch.float64, device=device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    for first in range(0, len(chunks), accelerator.num_processes):
        between_chunks()
        number = first + accelerator.process_index
        if number < len(chunks):
            losses[number], counts = _evaluate_chunk(model, chunks[number], classes, loss)
            confusion += counts
    # Each place sums one process's number and the others' zeros: exact in any order.
    losses, confusion = accelerator.reduce((losses, confusion), "sum")
    total = sum(losses.tolist())
    table: list[list[int]] = confusion.view(classes, classes).tolist()
    return Evaluation(table, total / len(images))


@torch.no_grad()
def _evaluate_chunk(
    model: Callable[[Tensor], Tensor], chunk: Images, classes: int, loss: Loss
) -> tuple[Tensor, Tensor]:
    """The chunk's summed loss, and how many images it has for each label and prediction."""
    logits = model(pixels(chunk.images))
    cells = chunk.labels * classes + logits.argmax(1)
    counts = torch.bincount(cells, minlength=classes * classes)
    return loss(logits, chunk.labels, 0.0), counts
