"""The roll call of srun's tasks: what is wrong on one node ends the job in its own words and code.

srun kills the other tasks as soon as one has failed, and reports the highest exit code. A task that
has hardly begun then hides the reason behind 143.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lenet_dist import exits
from lenet_dist.distributed import slurm
from lenet_dist.exits import NodeError, RequestError

_PRESENT = "present"


@contextmanager
def roll_call(obstacle: NodeError | None, world_size: int, timeout_seconds: int) -> Iterator[None]:
    """Have each process say what keeps it from taking part, if something does. A collective.

    Raises `obstacle` on its process, and RequestError, which names that process, on all others.
    Where they have met stays open within the context, for the process group to meet there too.
    """
    absent = []
    if world_size > 1 and slurm.in_step():
        if obstacle:
            exits.tell(obstacle)
        timeout = timedelta(seconds=timeout_seconds)
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
        roll = PrefixStore("roll_call", store)
        roll.set(str(rank), str(obstacle or _PRESENT))
        answers = roll.multi_get([str(other) for other in range(world_size)])
        absent = [str(other) for other, said in enumerate(answers) if said.decode() != _PRESENT]
        if absent:
            # None leaves before all know: with the first process goes the store.
            if roll.add("know", 1) == world_size:
                roll.set("all know", "")
            roll.wait(["all know"])
    if obstacle:
        raise obstacle
    if absent:
        raise RequestError(f"rank {', '.join(absent)} can't take part, and says why")
    yield
