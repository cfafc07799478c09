"""A job whose rank 1 once adds up a number that is none, as a broken machine might: what test_audit
starts."""

from __future__ import annotations

import os
from typing import Any

import torch

from lenet_dist import train
from lenet_dist.train import local_sums

STEP = 12


def main(arguments: list[str]) -> None:
    """Train as asked; on rank 1, the first sum of step number STEP (from 0) is not finite."""
    compute = local_sums.LocalSums.__call__
    struck = []

    def once_wrong(self: Any, batch: Any, shards: range, step: int, numbers: Any) -> Any:
        sums = compute(self, batch, shards, step, numbers)
        if os.environ.get("RANK") == "1" and step == STEP and not struck:
            struck.append(step)
            sums[0][1][0] = torch.nan
        return sums

    local_sums.LocalSums.__call__ = once_wrong  # type: ignore[method-assign]
    train.main(arguments)
