"""Which software a run uses, and what the environment tells its kernels."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

import lenet_dist

_PACKAGES = ("torch", "accelerate", "safetensors", "omegaconf", "numpy")

DECIDE_BITS = ("torch", "cuda", "cpu_capability")
"""Those of `versions` whose kernels compute the numbers."""
_OF_KERNELS = (
    "ATEN_", "ONEDNN_", "DNNL_", "MKL_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_", "TORCH_ALLOW_TF32_",
)  # fmt: skip
_HARMLESS = ("VERBOSE", "NUM_THREADS")
"""What libraries print changes no bit, and compute.threads decides on threads."""


def versions() -> dict[str, str | None]:
    """Versions by name. `cuda`: None in a build without it; `cpu_capability`: what kernels use."""
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
    root, git = Path(__file__).parents[2], shutil.which("git")
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
