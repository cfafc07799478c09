"""Which process of the job this is, by its launcher, in torch's environment variables."""

from __future__ import annotations

import os

from lenet_dist.distributed import slurm
from lenet_dist.exits import RequestError
from lenet_dist.launchers import MPI_RANKS

_FIRST_PORT, _PORTS = 15_000, 15_000
"""Below the range that systems assign themselves."""


def adopt_ranks() -> None:
    """Set RANK, WORLD_SIZE, ... from what mpirun or srun tells its processes. If torchrun or
    accelerate launch, which may run inside, has set them, they stay.

    Raises RequestError if that is incomplete.
    """
    if "RANK" in os.environ:
        return
    if "ACCELERATE_DEBUG_RDV_FILE" in os.environ:
        _adopt_rank_of_debug_launcher()
        return
    names = next((names for names in MPI_RANKS if all(n in os.environ for n in names)), None)
    if names is None:
        slurm.adopt_ranks()
        return
    rank, world_size, local_rank, local_world_size = (os.environ[name] for name in names)
    if "MASTER_ADDR" not in os.environ and world_size != local_world_size:
        raise RequestError(
            f"{names[1]}={world_size}, on several machines: name the first one to all processes:"
            " mpirun -x MASTER_ADDR=... -x MASTER_PORT=... (Open MPI), -genv MASTER_ADDR ..."
        )
    os.environ.update(
        RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=local_rank, LOCAL_WORLD_SIZE=local_world_size
    )
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    # What started these processes is the same for all of them, and no other job's.
    job = int(os.environ.get("PMIX_NAMESPACE", "").partition(".")[0] or os.getppid())
    os.environ.setdefault("MASTER_PORT", str(_FIRST_PORT + job % _PORTS))


def _adopt_rank_of_debug_launcher() -> None:
    """Set the variables in a process of accelerate.debug_launcher, which is connected already."""
    from torch import distributed

    rank, world_size = str(distributed.get_rank()), str(distributed.get_world_size())
    os.environ.update(
        RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=world_size,
        MASTER_ADDR="127.0.0.1", MASTER_PORT="0",
    )  # fmt: skip
