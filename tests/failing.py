"""A job whose first step fails, whenever it is started: what test_restarts starts."""

from __future__ import annotations

from typing import NoReturn

from lenet_dist import train
from lenet_dist.train.trainer import Trainer


def fail(*what: object) -> NoReturn:
    raise RuntimeError("gloo and behold: this loss was never written")


def main(arguments: list[str]) -> None:
    Trainer.train_step = fail  # type: ignore[method-assign]
    train.main(arguments)
