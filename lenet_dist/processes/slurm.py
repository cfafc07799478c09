"""What SLURM says of this job: a task's ranks, first host and port, as torch's environment names
them; its share of the node; the job's state."""

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
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host()
    os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + step % _PORTS))


def cpus_of_task() -> int | None:
    """The CPU cores that SLURM gives each task; None where it was not asked to, or where the
    processes are not its tasks."""
    is_task = os.environ.get("SLURM_NTASKS") == os.environ.get("WORLD_SIZE")
    asked = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(asked) if asked and is_task and "SLURM_STEP_ID" in os.environ else None


def gpus_of_task() -> str | None:
    """The GPUs that SLURM gives this step on this node, by its names for them; None if none."""
    return os.environ.get("SLURM_STEP_GPUS") or None


def job_name() -> str | None:
    """The job as scontrol takes it, a task of an array by the array's id; None outside a job.

    SLURM_JOB_ID alone would be the whole array for one of its tasks.
    """
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def job_state(job: str) -> str:
    """RUNNING, COMPLETING, CANCELLED, ... Raises RequestError if scontrol can't tell."""
    return _fields("job", job)["JobState"]


def requeue(job: str) -> None:
    """Put a running job back into the queue. SLURM ends this very process soon after."""
    _scontrol("requeue", job)


def _tasks_on_this_node() -> int:
    """From a list like ``2(x3),1``: two tasks on each of three nodes, one on the fourth."""
    tasks: list[int] = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, repeat = part.partition("(x")
        tasks += [int(count)] * int(repeat.rstrip(")") or 1)
    return tasks[int(os.environ["SLURM_NODEID"])]


def _first_host() -> str:
    """The address of the step's first node, as the cluster's own configuration has it."""
    name = _scontrol("show", "hostnames", os.environ["SLURM_STEP_NODELIST"]).split()[0]
    return _fields("node", name).get("NodeAddr", name)


def _fields(kind: str, name: str) -> dict[str, str]:
    shown = _scontrol("--oneliner", "show", kind, name)
    return dict(field.partition("=")[::2] for field in shown.split())


def _scontrol(*request: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *request], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or ""
        raise RequestError(f"scontrol {' '.join(request)}: {said or error}") from None
    return done.stdout
