"""What a process computes on: what it is, what it has, how fast it is."""

from __future__ import annotations

import time

import psutil
import torch

from lenet_dist import system

_HOLD_SECONDS = 0.5
"""Long enough for a shared core or a throttled GPU to show."""

_SIDE = {"cpu": 512, "cuda": 4096}


def model_name(device: torch.device) -> str:
    """The GPU's model, or the CPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else system.cpu_name()


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes free and in total, of the GPU or the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_gigaflops(device: torch.device) -> float:
    """Rate of float32 matrix products, in 10^9 operations a second, on torch's threads."""
    side = _SIDE[device.type]
    matrix = torch.rand(side, side, device=device)
    product = matrix @ matrix
    wait_for(device)
    products, began = 0, time.perf_counter()
    while time.perf_counter() - began < _HOLD_SECONDS:
        torch.mm(matrix, matrix, out=product)
        wait_for(device)
        products += 1
    return products * 2 * side**3 / (time.perf_counter() - began) / 1e9
