"""Ranks, first host and port of a task that srun started, as torch's environment names them."""

from __future__ import annotations

import os
import subprocess

from lenet_dist.exits import RequestError

_FIRST_PORT, _PORTS = 15_000, 15_000
"""Ports derived from job and step, below the range that systems hand out on their own."""


def adopt_ranks() -> None:
    """Set RANK, WORLD_SIZE, ... from SLURM's variables in a task of srun; elsewhere do nothing.

    A launcher inside the task (torchrun, accelerate launch) has set them itself: they stay.
    """
    if "SLURM_STEP_ID" not in os.environ or "RANK" in os.environ:
        return
    step = int(os.environ["SLURM_JOB_ID"]) * 31 + int(os.environ["SLURM_STEP_ID"])
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"],
        LOCAL_RANK=os.environ["SLURM_LOCALID"],
        WORLD_SIZE=os.environ["SLURM_NTASKS"],
        LOCAL_WORLD_SIZE=str(_tasks_on_this_node()),
    )
    os.environ.setdefault("MASTER_ADDR", _first_host())
    os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + step % _PORTS))


def _tasks_on_this_node() -> int:
    """From a list like ``2(x3),1``: two tasks on each of three nodes, one on the fourth."""
    tasks: list[int] = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, repeat = part.partition("(x")
        tasks += [int(count)] * int(repeat.rstrip(")") or 1)
    return tasks[int(os.environ["SLURM_NODEID"])]


def _first_host() -> str:
    """The address of the step's first node, as the cluster's own configuration has it."""
    nodes = os.environ["SLURM_STEP_NODELIST"]
    name = _scontrol("hostnames", nodes).split()[0]
    fields = dict(field.partition("=")[::2] for field in _scontrol("node", name).split())
    return fields.get("NodeAddr", name)


def _scontrol(kind: str, name: str) -> str:
    try:
        shown = subprocess.run(
            ["scontrol", "--oneliner", "show", kind, name],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise RequestError(f"scontrol can't show {kind} {name}: {error}") from None
    return shown.stdout
