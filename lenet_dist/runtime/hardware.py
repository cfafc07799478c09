"""What this machine has."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's model, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return model[1] if model else platform.processor() or platform.machine()
