"""Processes that have the same GPU: found before NCCL connects them, which refuses it in words that
change from version to version."""

from __future__ import annotations

import json

from torch.distributed.distributed_c10d import Store

from lenet_dist.exits import RequestError
from lenet_dist.system import Place


def refuse_shared_gpus(store: Store, place: Place, world_size: int) -> None:
    """Raise RequestError, on every process, naming those that have the same GPU. `store`: where the
    processes of the job have met. A collective."""
    store.set(_key(place.rank), json.dumps([place.host, place.device]))
    ranks: dict[bytes, list[str]] = {}
    for rank, gpu in enumerate(store.multi_get([_key(rank) for rank in range(world_size)])):
        ranks.setdefault(gpu, []).append(str(rank))
    for gpu, sharing in ranks.items():
        if len(sharing) > 1:
            host, device = json.loads(gpu)
            raise RequestError(
                f"ranks {', '.join(sharing[:-1])} and {sharing[-1]} have the same GPU on {host}"
                f" ({device}), which NCCL refuses: start one process per GPU at most, and let each"
                " see all GPUs or one of its own"
            )


def _key(rank: int) -> str:
    return f"lenet_dist/gpu/{rank}"
