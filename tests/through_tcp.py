"""The job of processes that share no memory, as on two machines: what test_same_bits starts."""

from __future__ import annotations

import os

from lenet_dist import train
from lenet_dist.training import job


def main(arguments: list[str]) -> None:
    """Train as asked, and say how rows are gathered."""
    del os.memfd_create
    gather_of = job.gather_of

    def and_say(*how: object) -> object:
        gather = gather_of(*how)  # type: ignore[arg-type]
        print("through Accelerate" if "Accelerator" in repr(gather) else "through memory")
        return gather

    job.gather_of = and_say  # type: ignore[assignment]
    train.main(arguments)
