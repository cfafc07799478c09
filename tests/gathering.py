"""A job's process that gathers rows both ways and compares: what test_exchange starts."""

from __future__ import annotations

import os
import random
import time

import torch

from lenet_dist.config import Compute
from lenet_dist.distributed.accelerator import meet, start_accelerator
from lenet_dist.distributed.shm_gather import choose_gather
from tests.refusing import refuse

ROUNDS = 200
WIDTH = 1000
LARGEST = 5
"""Rows of a process."""


def main(arguments: list[str]) -> None:
    """Print which way is taken. `arguments` are a run's and not looked at."""
    accelerator = start_accelerator(Compute())
    if call := os.environ.get("TEST_REFUSED"):
        refuse(call)
    gather = choose_gather(accelerator, LARGEST * WIDTH, timeout_seconds=20)
    rank = accelerator.process_index
    for number in range(ROUNDS):
        rows = torch.full((number % LARGEST + 1, WIDTH), float(number * 100 + rank))
        rows[:, 0] = torch.arange(len(rows))
        found = gather(rows)
        # Now one, now another is the slower to read and the slower to write.
        time.sleep(random.random() * 1e-3 if random.random() < 0.3 else 0)
        copy = found.clone()
        assert torch.equal(copy, accelerator.gather(rows)), number
        assert torch.equal(gather(rows), copy), number
    print("Accelerate's" if gather == accelerator.gather else "shared memory")
    meet(accelerator)
