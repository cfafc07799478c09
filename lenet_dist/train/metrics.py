"""Training metrics: sums over the steps since the last train line, on the device until needed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.exits import RunFailed
from lenet_dist.plan import Plan
from lenet_dist.train.schedule import learning_rate


class StepMetrics(NamedTuple):
    """One step's metrics, on the device: summed loss, correct predictions, gradient norm.

    Under ``reduction: fixed`` all are over the global batch; under ``ddp`` the first two are over
    this process's share.
    """

    loss_sum: Tensor
    correct: Tensor
    grad_norm: Tensor


class TrainMetrics:
    """Loss, accuracy, gradient norm and skipped steps of a train line."""

    def __init__(self, accelerator: Accelerator, *, stats_are_global: bool) -> None:
        self._accelerator = accelerator
        self._gathers = not stats_are_global and accelerator.num_processes > 1
        self._pending: list[StepMetrics] = []
        self.reset(train_seconds=0.0)

    def reset(self, train_seconds: float) -> None:
        """Begin the next line, after `train_seconds` of training."""
        self._sums = {
            "loss_sum": 0.0, "correct": 0.0, "grad_norm": 0.0, "skipped_steps": 0,
            "train_seconds": train_seconds,
        }  # fmt: skip

    def add(self, metrics: StepMetrics) -> None:
        """Take in a step's metrics, without reading them."""
        self._pending.append(metrics)

    def line(self, plan: Plan, step: int, train_seconds: float) -> dict[str, float]:
        """The metrics of the train line after step number `step` (from 1), and begin the next.

        Raises RunFailed as `flush` does.
        """
        config, sums = plan.config, self.flush(step)
        samples = ((step - 1) % config.log.every_steps + 1) * plan.batch_size
        metrics = {
            "loss": sums["loss_sum"] / samples,
            "accuracy": sums["correct"] / samples,
            "lr": learning_rate(config.schedule, config.optimizer.lr, step - 1, plan.total_steps),
            "grad_norm": sums["grad_norm"],
            "samples_per_second": samples / (train_seconds - sums["train_seconds"]),
        }
        if config.compute.precision == "fp16":
            metrics["skipped_steps"] = sums["skipped_steps"]
        self.reset(train_seconds)
        return metrics

    def flush(self, step: int) -> dict[str, float]:
        """The sums so far, as plain numbers, after step number `step` (from 1).

        They are the same however often they are flushed, because steps are added one by one. A
        collective under ``reduction: ddp``. Raises RunFailed, on every process, if a loss or
        (except under fp16) a gradient was not finite.
        """
        first = step - len(self._pending) + 1
        for number, values in enumerate(self._read_pending(), start=first):
            self._add_step(number, *values)
        return self._sums

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold; flush first."""
        assert not self._pending
        return self._sums

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's sums."""
        self._sums = dict(state)

    def _read_pending(self) -> list[tuple[float, float, float]]:
        if not self._pending:
            return []
        stats = torch.stack([torch.stack(stats) for stats in self._pending])
        self._pending.clear()
        by_rank = (self._accelerator.gather(stats[None]) if self._gathers else stats[None]).tolist()
        # Ranks are added in rank order; an all-reduce adds in an order of its own.
        return [
            (sum(s[0] for s in ranks), sum(s[1] for s in ranks), ranks[0][2])
            for ranks in zip(*by_rank, strict=True)
        ]

    def _add_step(self, step: int, loss_sum: float, correct: float, grad_norm: float) -> None:
        is_skipped = not math.isfinite(grad_norm) and self._accelerator.mixed_precision == "fp16"
        if not math.isfinite(loss_sum) or not (math.isfinite(grad_norm) or is_skipped):
            raise RunFailed(not_finite(loss_sum, grad_norm, step))
        self._sums["skipped_steps"] += is_skipped
        self._sums["loss_sum"] += loss_sum
        self._sums["correct"] += correct
        self._sums["grad_norm"] = grad_norm


def not_finite(loss: float, grad_norm: float, step: int) -> str:
    """What to say of step number `step` (from 1), whose loss or gradient is not finite."""
    if not math.isfinite(loss):
        return (
            f"the loss is {loss} at step {step}; no checkpoint holds it:"
            " lower optimizer.lr, or set train.clip_norm"
        )
    return (
        f"the gradient's norm is {grad_norm} at step {step}; no checkpoint holds it:"
        " lower optimizer.lr"
    )
