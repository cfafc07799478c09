"""What the server of forked processes has imported, so that none of them spends time on it."""

import gc
import importlib
from typing import get_args

import torch

from lenet_dist.data import dataset

for module in (
    "lenet_dist.train", "lenet_dist.train.start", "lenet_dist.track.follower",
    "lenet_dist.report.page", "torch._dynamo", "torch.distributed.algorithms.ddp_comm_hooks",
    "tests.processes",
):  # fmt: skip
    importlib.import_module(module)

# On one thread: those of a pool would be missing in every forked process, which would wait for them.
threads = torch.get_num_threads()
torch.set_num_threads(1)
for split in get_args(dataset.Split):
    dataset.synthetic(split)
torch.set_num_threads(threads)

# Each process would look through all of it at its first collection: a fifth of a second.
gc.freeze()
