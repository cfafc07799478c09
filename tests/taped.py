"""A job whose steps are captured as a tape is: what test_without_gpu starts.

Its processes fail to capture if their number is in FAILING.
"""

from __future__ import annotations

import os

from accelerate import Accelerator

from lenet_dist import train
from lenet_dist.train import trainer
from tests import tape


def main(arguments: list[str]) -> None:
    """Train as asked, and say what became of the graph."""
    rank = os.environ.get("RANK", "0")
    fails = rank in os.environ.get("FAILING", "").split()
    tape.install(tape.FailingCapture if fails else tape.Capture)
    trainer.StepParamsOnDevice = tape.ScalarParams  # type: ignore[misc]
    end_training = Accelerator.end_training

    def and_say(accelerator: Accelerator) -> None:
        print("the process group is left", flush=True)
        end_training(accelerator)

    Accelerator.end_training = and_say  # type: ignore[method-assign]
    train.main(arguments)
    print("replays:", sum(graph.replays for graph in tape.Tape.made))
