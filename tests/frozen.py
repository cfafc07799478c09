"""A job whose processes wait for each other as a GPU's do, in no collective: for ever from the
agreement of step FROZEN_AT on, or for SECONDS in each."""

from __future__ import annotations

import os
import threading
import time

from torch import Tensor

from lenet_dist import train
from lenet_dist.distributed import waiting
from lenet_dist.distributed.stop import Action, StopConsensus


def main(arguments: list[str]) -> None:
    """Train as asked."""
    frozen_at, seconds = (
        int(os.environ.get("FROZEN_AT", 10**6)),
        float(os.environ.get("SECONDS", 0)),
    )
    waiting._END_SECONDS = 1
    limit_waits = waiting.limit_waits
    waiting.limit_waits = lambda seconds, on_gpu: limit_waits(seconds, on_gpu=True)  # type: ignore
    reach = StopConsensus.reach

    def wait(consensus: StopConsensus, step: int, proposal: Action = Action.GO_ON) -> Action:
        gather = consensus._gather

        def gather_late(rows: Tensor) -> Tensor:
            time.sleep(seconds)
            if step >= frozen_at:
                threading.Event().wait()
            return gather(rows)

        consensus._gather = gather_late
        action = reach(consensus, step, proposal)
        consensus._gather = gather
        return action

    StopConsensus.reach = wait  # type: ignore[method-assign]
    train.main(arguments)
