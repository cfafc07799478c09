"""What started this process: which rank it is, and a torchrun that would start it again."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import psutil

MPI_RANKS = (
    (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)  # fmt: skip
"""What mpirun tells its processes: rank, world size, and both on this machine; by Open MPI's names,
and by those of MPICH and Intel MPI."""

_TORCHRUN = re.compile(r"(^|/)(torchrun|accelerate)$|torch[./]distributed[./](run|launch)\b")
"""A word of torchrun's command line."""


def is_main_process() -> bool:
    """Whether this process speaks for the job: rank 0, or the only one, by the launcher's
    variables."""
    known = [("RANK", "WORLD_SIZE"), *MPI_RANKS, ("SLURM_PROCID", "SLURM_NTASKS")]
    names = next((names for names in known if names[1] in os.environ), known[0])
    rank, world_size = (os.environ.get(name) for name in names[:2])
    return world_size in (None, "", "0", "1") or rank in (None, "", "0")


def is_elastic() -> bool:
    """Whether a torchrun that restarts failed processes started this one."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")


def find_torchrun() -> psutil.Process | None:
    """The torchrun that started this process, maybe through scripts; None if there is none.

    What it starts has its variables; it has not. A notebook may launch as well, but is not to be
    ended.
    """
    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if "TORCHELASTIC_RUN_ID" not in parent.environ():
                is_torchrun = any(_TORCHRUN.search(word) for word in parent.cmdline())
                return parent if is_torchrun else None
    return None


def is_followed_by_traceback() -> bool:
    """Whether `accelerate launch` started this one process and prints a traceback if it fails."""
    with suppress(psutil.Error):
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
        is_accelerate = any(word.endswith("accelerate") for word in words[:3])
        return is_accelerate and "launch" in words and not {"-q", "--quiet"} & set(words)
    return False


def tell_torchrun(text: str) -> None:
    """Have torchrun repeat the text at the end of the report that it prints of a failure."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": text, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
