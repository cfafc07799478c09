"""What a task must keep so that a run's bits do not depend on the number of processes: tried on a
few samples before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lenet_dist.data.dataset import Batch, Images, pixels
from lenet_dist.exits import RequestError
from lenet_dist.model.initialisation import seeded
from lenet_dist.plan import Plan
from lenet_dist.train.task import Loss, Task

_TOLERANCE = 0.05
"""Relative. Kernels differ by far less between batches, even in bfloat16; batch statistics and a
loss that is averaged by far more."""
_MOST_SAMPLES = 16

_INSTEAD = "use GroupNorm or LayerNorm instead, or fix its statistics by calling .eval() on it"


@dataclass(frozen=True)
class Traits:
    """What a model does that decides how its shards are computed."""

    classes: int
    """The logits' width."""
    draws_random_numbers: bool


def check_model(model: nn.Module) -> None:
    """Raise RequestError naming the first part of the model that can't be trained here.

    Trainable parameters are float32, and no layer normalises by the statistics of its batch.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise RequestError("the model has no parameter that requires a gradient")
    for name, parameter in trainable.items():
        if parameter.dtype != torch.float32:
            raise RequestError(
                f"the model's parameter {name} is {parameter.dtype}: trainable parameters must be"
                " float32; compute.precision=bf16 computes with them in bfloat16"
            )
    for name, module in model.named_modules():
        uses_batch = module.training or not getattr(module, "track_running_stats", True)
        if isinstance(module, _BatchNorm) and uses_batch:
            raise RequestError(
                f"the model's layer {name} ({type(module).__name__}) normalises by the statistics"
                f" of a batch, which differ with the number of processes: {_INSTEAD}"
            )


def check_task(
    task: Task, plan: Plan, model: nn.Module, forward: Callable[[Tensor], Tensor], images: Images
) -> Traits:
    """Try the task on a few of its training `images`, and look at the labels of all of them.
    `forward` is the model as Accelerate prepared it.

    Raises RequestError as `check_forward` does, or if a label has no logit.
    """
    traits = check_forward(model, forward, task.loss, first_shard(plan, images))
    check_labels(images.labels, traits.classes)
    if task.dataset:
        check_labels(task.load(plan.config, "test").labels, traits.classes)
    return traits


def first_shard(plan: Plan, images: Images) -> Batch:
    """As many of the first samples as a shard has."""
    return images.batch_of(torch.arange(min(plan.shard_size, len(images))))


def check_forward(
    model: nn.Module, forward: Callable[[Tensor], Tensor], loss: Loss, samples: Batch
) -> Traits:
    """Try the model on a few samples.

    Raises RequestError if the logits are not [n, C], the forward pass changes a buffer, an image's
    logits depend on the others, or the loss is not a sum.
    """
    labels = samples.labels[:_MOST_SAMPLES]
    images = pixels(samples.images[:_MOST_SAMPLES])
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), seeded(0, images.device):
        before = _generator_state(images.device)
        logits = forward(images)
        draws = not torch.equal(before, _generator_state(images.device))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise RequestError(f"the model must give logits [n, C]; it gives {shape}")
        if int(labels.max()) < logits.shape[1]:
            _check_sum(loss, logits, labels)  # Else `check_labels` says so.
        if not draws:
            alone = torch.cat([forward(images[i : i + 1]) for i in range(len(images))])
            if not _is_close(alone, logits):
                raise RequestError(
                    "the model's logits of an image depend on the other images of its batch, which"
                    " differ with the number of processes: normalise each image by itself, with"
                    " GroupNorm or LayerNorm"
                )
    for name, buffer in model.named_buffers():
        if not torch.equal(buffers[name], buffer):
            raise RequestError(
                f"the model's forward pass changes its buffer {name} in training, which would"
                f" differ from process to process: {_INSTEAD}"
            )
    return Traits(logits.shape[1], draws)


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise RequestError if a label has no logit."""
    if (greatest := int(labels.max())) >= classes:
        raise RequestError(f"label {greatest} has no logit: the model gives {classes}")


def _check_sum(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    once = loss(logits, labels, 0.0)
    if once.dim():
        raise RequestError(f"the task's loss must be a scalar; it is {list(once.shape)}")
    twice = loss(torch.cat([logits, logits]), torch.cat([labels, labels]), 0.0)
    if not _is_close(twice, 2 * once):
        raise RequestError(
            "the task's loss is not a sum over the samples: twice the samples give"
            f" {float(twice):.6g} instead of 2 x {float(once):.6g}. Use reduction='sum': a step"
            " divides by the global batch itself"
        )


def _is_close(a: Tensor, b: Tensor) -> bool:
    """Whether they differ by little; numbers that are not finite are for the training to report."""
    error, size = (a - b).float().abs().max(), b.float().abs().max()
    return not bool(error > _TOLERANCE * size)


def _generator_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    if device.type == "cuda":
        state = torch.cat([state, torch.cuda.get_rng_state(device)])
    return state
