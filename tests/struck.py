"""A job's process whose memory can be struck from outside: what test_audit starts."""

from __future__ import annotations

import signal
from typing import Any

from lenet_dist import train
from lenet_dist.train import start
from lenet_dist.train.trainer import Trainer

STRIKE = signal.SIGWINCH
"""Changes one weight by a little; a process that is not struck ignores it."""

STRIKE_AVERAGE = signal.SIGURG
"""Changes one value of the weights' moving average."""


def main(arguments: list[str]) -> None:
    """Train as asked, and change a weight whenever the signal comes."""
    start.Trainer = StruckTrainer  # type: ignore[misc]
    train.main(arguments)


class StruckTrainer(Trainer):
    """A trainer whose memory changes when a signal comes."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        # Through `data`, autograd does not notice it, as it does not notice a fault of the memory.
        bias = next(self.state.model.parameters()).data.view(-1)
        signal.signal(STRIKE, lambda *_: bias[0].add_(1e-6))
        assert self.state.ema
        mean = self.state.ema.mean
        signal.signal(STRIKE_AVERAGE, lambda *_: mean[0].add_(1e-6))
