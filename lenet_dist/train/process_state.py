"""What a run changes in its process, put back at its end: a notebook's process goes on after it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from lenet_dist.kernels import native
from lenet_dist.run_dir import lock

_CALLS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_rng_state, torch.set_rng_state),
)
_ATTRIBUTES = (
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    (torch.utils.deterministic, "fill_uninitialized_memory"),
    (native, "_threads"),
)
_SINGLETONS = (PartialState, AcceleratorState, GradientState)
"""Where Accelerate keeps what the first Accelerator of a process was asked for, and refuses other
wishes of the next one."""


@contextmanager
def put_back() -> Iterator[None]:
    """Begin without an Accelerator, and leave the process as it was: its environment, torch's
    settings, Accelerate's state, and no lock. Signals are StopRequest's."""
    environment = dict(os.environ)
    of_calls = [(put, get()) for get, put in _CALLS]
    of_attributes = [(holder, name, getattr(holder, name)) for holder, name in _ATTRIBUTES]
    of_singletons = [dict(one._shared_state) for one in _SINGLETONS]
    for one in _SINGLETONS:
        one._shared_state.clear()
    try:
        with lock.released_after():
            yield
    finally:
        for one, state in zip(_SINGLETONS, of_singletons, strict=True):
            one._shared_state.clear()
            one._shared_state.update(state)
        for holder, name, value in of_attributes:
            setattr(holder, name, value)
        for put, value in of_calls:
            put(value)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
