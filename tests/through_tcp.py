"""The job of processes that share no memory, as on two machines: what test_same_bits starts."""

from __future__ import annotations

import os

from lenet_dist import train
from lenet_dist.train import trainer


def main(arguments: list[str]) -> None:
    """Train as asked, and say how rows are gathered."""
    del os.memfd_create
    choose_gather = trainer.choose_gather

    def and_say(*how: object) -> object:
        gather = choose_gather(*how)  # type: ignore[arg-type]
        print("through Accelerate" if "Accelerator" in repr(gather) else "through memory")
        return gather

    trainer.choose_gather = and_say  # type: ignore[assignment]
    train.main(arguments)
