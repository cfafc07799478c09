"""The learning rate's cycle twice, the second time at half the height (Loshchilov and Hutter, 2017,
SGDR, section 3)."""

from __future__ import annotations

from lenet_dist import exits, train
from lenet_dist.config import Schedule
from lenet_dist.training import step
from lenet_dist.training.schedule import learning_rate


def _twice(schedule: Schedule, peak: float, step: int, total_steps: int) -> float:
    first = total_steps // 2
    if step < first:
        return learning_rate(schedule, peak, step, first)
    return learning_rate(schedule, peak / 2, step - first, total_steps - first)


def main(arguments: list[str]) -> None:
    step.learning_rate = _twice
    train.main(arguments)


if __name__ == "__main__":
    exits.run(main)
