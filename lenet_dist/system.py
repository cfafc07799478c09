"""What this machine is and has: cores, memory, versions, variables that kernels heed."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lenet_dist

_DRIVER_SECONDS = 5
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""Bytes. glibc accepts no larger value."""
_PACKAGES = ("torch", "accelerate", "safetensors", "omegaconf", "numpy")

DECIDE_BITS = ("torch", "cuda", "cpu_capability")
"""The names in `versions` of what computes the numbers."""
_OF_KERNELS = (
    "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_", "TORCH_ALLOW_TF32_",
)  # fmt: skip
_HARMLESS = ("VERBOSE", "NUM_THREADS")
"""What libraries print changes no bit, and compute.threads decides on threads."""


@dataclass(frozen=True)
class Place:
    """Where to find a process: its host, by SLURM's name for it if SLURM runs it, and the CPU's
    model or the GPU's with its UUID."""

    rank: int
    host: str
    device: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} ({self.device})"


def cores() -> int:
    """CPU cores that this process may use: those that it may run on, or fewer by its cgroup's quota
    of their time."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(count, int(min(_quotas(), default=count))))


def _quotas() -> Iterator[float]:
    """The cores' worth of time that each cgroup of this process allows, of those with a limit."""
    groups = _CGROUP.read_text().splitlines() if _CGROUP.exists() else []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's: then only the root is there.
        root = _CGROUPS / "cpu" if controllers else _CGROUPS
        own = root / path.strip("/")
        for folder in (own, *own.parents[: len(own.parts) - len(root.parts)]):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            files = [folder / name for name in names]
            if all(file.exists() for file in files):
                quota, period = " ".join(file.read_text() for file in files).split()
                if quota not in ("max", "-1"):
                    yield int(quota) / int(period)


def cpu_name() -> str:
    """The CPU's model, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return model[1] if model else platform.processor() or platform.machine()


def processor() -> str:
    """The CPU's model and the cores that this process may use, as people read them."""
    return f"{cpu_name()}, {cores()} cores"


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver; None where nvidia-smi is missing, fails or hangs."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_DRIVER_SECONDS
        )
        return shown.stdout.partition("\n")[0].strip() or None
    return None


def is_notebook() -> bool:
    """Whether this is a notebook's own process, which goes on after a run; not one that a launcher
    has forked from it."""
    return "ipykernel" in sys.modules and multiprocessing.parent_process() is None


def keep_freed_memory() -> None:
    """Keep freed memory in this process for the next step's tensors. Without glibc, do nothing.

    By default glibc returns freed tensors of about 100 KB and more to the kernel, and every step
    gets new ones, page by page, zeroed. At a batch of 256 that took a third of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def versions() -> dict[str, str | None]:
    """Versions by name. `cuda`: None in a build without it; `cpu_capability`: what kernels use."""
    import torch

    return {
        "lenet_dist": lenet_dist.__version__,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def kernel_variables() -> dict[str, str]:
    """The environment variables that tell the kernels' libraries how to compute."""
    of_kernels = (name for name in sorted(os.environ) if name.startswith(_OF_KERNELS))
    return {name: os.environ[name] for name in of_kernels if not name.endswith(_HARMLESS)}


def git_commit() -> str | None:
    """The source tree's commit, with ``-dirty`` if files have changed since; None outside git."""
    root, git = Path(__file__).parents[1], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    described = subprocess.run(
        [
            git, "-c", f"safe.directory={root}", "-C", root,  # Though another user owns it.
            "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*",
        ],
        capture_output=True, text=True, check=False,
        # GIT_DIR and its like name another repository, in a hook for example.
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    )  # fmt: skip
    return described.stdout.strip() or None
