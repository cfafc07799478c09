"""The learning rate, a function of the step."""

from __future__ import annotations

import math

from lenet_dist.config import Schedule

_ONE_CYCLE_START = 1 / 25
"""Share of the peak at which one-cycle begins, as in torch's OneCycleLR."""


def learning_rate(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of step number `step` (from 0) of `total_steps`.

    constant: the peak, after a linear warm-up. cosine: linear warm-up, then half a cosine down to
    ``final * peak`` (Loshchilov and Hutter, 2017, SGDR). one_cycle: half a cosine up from peak / 25
    and half a cosine down (Smith and Topin, 2018, Super-convergence).
    """
    warmup_steps = schedule.warmup * total_steps
    last_step = max(total_steps - 1, 1)
    if step < warmup_steps:
        if schedule.name == "one_cycle":
            return peak * _half_cosine(_ONE_CYCLE_START, 1.0, step / warmup_steps)
        return peak * (step + 1) / (warmup_steps + 1)
    if schedule.name == "constant":
        return peak
    done = (step - warmup_steps) / max(last_step - warmup_steps, 1)
    return peak * _half_cosine(1.0, schedule.final, min(done, 1.0))


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
