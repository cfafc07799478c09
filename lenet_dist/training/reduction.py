"""The sum over a step's shards, in an order that does not depend on who computed what.

Floating-point sums depend on their order, and an all-reduce's order on the number of processes.
Here the order is part of the model: a binary tree over the V shards, the same at any world size
that divides V. Bit-equality across world sizes by fixed virtual workers: Li et al., "EasyScale",
SC 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lenet_dist.runtime.exchange import Gather


def sum_over_shards(rows: Tensor, gather: Gather) -> Tensor:
    """The sum [P] over all shards of all processes of `rows` [shards of this process, P].

    Every process gets the same bits. Shards are dealt to processes in order, equally many each.
    """
    # While every process holds an even number of rows, a level of the tree pairs none across
    # processes: each adds its own, and there is less to send.
    while len(rows) % 2 == 0:
        rows = add_pairs(rows)
    rows = gather(rows)
    while len(rows) > 1:
        rows = add_pairs(rows)
    return rows[0]


def add_pairs(rows: Tensor) -> Tensor:
    """One level of the tree: rows 0+1, 2+3, ...; a last one without a partner is passed on."""
    paired = len(rows) // 2 * 2
    sums = rows[0:paired:2] + rows[1:paired:2]
    return sums if paired == len(rows) else torch.cat([sums, rows[paired:]])
