"""SLURM's facts about this job: a task's ranks, first host and port, in torch's environment
variables; its share of the node; the job's state."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from lenet_dist.exits import RequestError

_FIRST_PORT, _PORTS = 15_000, 15_000
"""Ports are derived from job and step, and lie below the range that systems assign themselves."""
_TASK_VARIABLES = (
    "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID",
    "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST",
)  # fmt: skip


def adopt_ranks() -> None:
    """In a task of srun, set RANK, WORLD_SIZE, ... from SLURM's variables; elsewhere do nothing.

    If a launcher inside the task (torchrun, accelerate launch) has set them, they stay.
    """
    if "SLURM_STEP_ID" not in os.environ or "RANK" in os.environ:
        return
    if missing := [name for name in _TASK_VARIABLES if name not in os.environ]:
        raise RequestError(
            f"SLURM_STEP_ID is set but {', '.join(missing)} not: start the processes with srun, or"
            " unset SLURM_STEP_ID"
        )
    # Not SLURM_NTASKS: in salloc's shell, which is a step of one task, that is the job's.
    tasks = os.environ["SLURM_STEP_NUM_TASKS"]
    if tasks == "1" and (job_tasks := os.environ.get("SLURM_NTASKS", "1")) != "1":
        print(
            f"warning: one process, in a job of {job_tasks} tasks: write srun before the command to"
            " use them all", file=sys.stderr, flush=True,
        )  # fmt: skip
    step = int(os.environ["SLURM_JOB_ID"]) * 31 + int(os.environ["SLURM_STEP_ID"])
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"],
        LOCAL_RANK=os.environ["SLURM_LOCALID"],
        WORLD_SIZE=tasks,
        LOCAL_WORLD_SIZE=str(_tasks_on_this_node()),
    )
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = "127.0.0.1" if tasks == "1" else _first_host()
    os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + step % _PORTS))


def in_step() -> bool:
    """Whether srun started this process."""
    return "SLURM_STEP_ID" in os.environ


def node_name() -> str:
    """This machine's name: SLURM's if this is a job's process there, else its own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def cpus_of_task() -> int | None:
    """The CPU cores that SLURM gives each task; None if the job did not ask for them, or if its
    processes are not SLURM's tasks."""
    is_task = os.environ.get("SLURM_NTASKS") == os.environ.get("WORLD_SIZE")
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    return int(cpus) if cpus and is_task and "SLURM_STEP_ID" in os.environ else None


def gpus_of_task() -> str | None:
    """The GPUs that SLURM gives this step on this node, as SLURM names them; None if none."""
    return os.environ.get("SLURM_STEP_GPUS") or None


def job_name() -> str | None:
    """The job's name for scontrol, ARRAY_TASK for a task of an array; None outside a job.

    SLURM_JOB_ID alone would name the whole array in one of its tasks.
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
    """This node's number of tasks, from a list like ``2(x3),1``: two on each of three nodes, one on
    the fourth."""
    tasks: list[int] = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, repeat = part.partition("(x")
        tasks += [int(count)] * int(repeat.rstrip(")") or 1)
    return tasks[int(os.environ["SLURM_NODEID"])]


def _first_host() -> str:
    """The address of the step's first node, from the cluster's own configuration."""
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
        stderr = getattr(error, "stderr", None) or ""
        raise RequestError(f"scontrol {' '.join(request)}: {stderr or error}") from None
    return done.stdout
