"""What a machine can do at best: its memory, its arithmetic, its launches."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from lenet_dist.benchmarking import measurements
from lenet_dist.inspection.device import gigaflops, wait_for
from lenet_dist.machine.hardware import gpu_driver, memory

_ROUNDS = 5
_COPIED_BYTES = {"cuda": 2**30, "cpu": 2**26}
_KERNELS = 1000
_SHOWN_SECONDS = 20


def machine() -> dict[str, Any]:
    """What is measured on."""
    return {
        **measurements.machine(), "driver": gpu_driver(), "memory_gib": memory()[1] / 2**30
    }  # fmt: skip


def limits() -> dict[str, Any]:
    """Rates of copying and of matrix products, what launches cost, and the state of the GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = _COPIED_BYTES[device.type]
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = _microseconds(device, lambda: target.copy_(source), 10)
    return {
        "copy_gb_per_second": 2 * size / copy / 1e3,  # Read and written.
        "fp32_gigaflops": gigaflops(device),
        **_launches(device),
        "nvidia_smi": _nvidia_smi(),
    }


def _launches(device: torch.device) -> dict[str, Any]:
    """Microseconds of a kernel that adds 1 to one number: launched alone, and in a graph."""
    number = torch.zeros(1, device=device)

    def add() -> object:
        return number.add_(1)

    taken: dict[str, Any] = {"launch_us": _microseconds(device, add, _KERNELS)}
    if device.type == "cuda":
        one, many = (_graph(add, count) for count in (1, _KERNELS))
        taken["graph_us"] = _microseconds(device, one.replay, 100)
        whole = _microseconds(device, many.replay, 10)
        taken["kernel_in_graph_us"] = (whole - taken["graph_us"]) / (_KERNELS - 1)
    return taken


def _graph(action: Callable[[], object], count: int) -> torch.cuda.CUDAGraph:
    action()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            action()
    return graph


def _microseconds(device: torch.device, action: Callable[[], object], count: int) -> float:
    """The median time of one of `count` in a row, the device's work included."""
    action()
    wait_for(device)
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            action()
        wait_for(device)
        rounds.append(1e6 * (time.perf_counter() - began) / count)
    return statistics.median(rounds)


def _nvidia_smi() -> str | None:
    """What it shows of clocks, power and other users; None where it is missing."""
    if not shutil.which("nvidia-smi"):
        return None
    shown = subprocess.run(
        ["nvidia-smi"], capture_output=True, text=True, check=False, timeout=_SHOWN_SECONDS
    )
    return shown.stdout
