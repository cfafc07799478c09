"""A job's process whose memory can be struck from outside: what test_audit starts."""

from __future__ import annotations

import signal

from lenet_dist import train
from lenet_dist.training import start

STRIKE = signal.SIGWINCH
"""Changes one weight by a little; a process that is not struck ignores it."""

STRIKE_AVERAGE = signal.SIGURG
"""Changes one value of the weights' moving average."""


def main(arguments: list[str]) -> None:
    """Train as asked, and change a weight whenever the signal comes."""
    assemble = start.assemble

    def assemble_and_listen(*parts: object) -> object:
        job = assemble(*parts)  # type: ignore[arg-type]
        # Through `data`, autograd does not notice it, as it does not notice a fault of the memory.
        bias = next(job.state.model.parameters()).data.view(-1)
        signal.signal(STRIKE, lambda *_: bias[0].add_(1e-6))
        mean = job.state.average.mean
        signal.signal(STRIKE_AVERAGE, lambda *_: mean[0].add_(1e-6))
        return job

    start.assemble = assemble_and_listen  # type: ignore[assignment]
    train.main(arguments)
