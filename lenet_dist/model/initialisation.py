"""First weights: torch's own initialisation, as a function of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw torch's random numbers from this seed, on the CPU and on `device`, and leave their
    generators as they were."""
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(seed) if on_gpu else torch.default_generator.manual_seed(seed)
        yield
