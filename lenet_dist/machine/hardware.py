"""What this machine has."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import psutil

_DRIVER_SECONDS = 5


def cores() -> int:
    """CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


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
