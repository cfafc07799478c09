"""What this machine has."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

_DRIVER_SECONDS = 5
_CGROUP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


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


def memory() -> tuple[int, int]:
    """This machine's available and total memory, in bytes."""
    found = psutil.virtual_memory()
    return found.available, found.total


def gpu_driver() -> str | None:
    """Version of the NVIDIA driver; None where nvidia-smi is missing, fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        shown = subprocess.run(
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=False, timeout=_DRIVER_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    lines = shown.stdout.splitlines()
    return lines[0].strip() if shown.returncode == 0 and lines else None
