"""What the server of forked processes has imported, so that none of them spends time on it."""

import gc
import importlib

for module in (
    "lenet_dist.train", "lenet_dist.train.start", "lenet_dist.track.follower",
    "lenet_dist.report.page", "torch._dynamo", "torch.distributed.algorithms.ddp_comm_hooks",
    "tests.processes",
):  # fmt: skip
    importlib.import_module(module)

# Each process would look through all of it at its first collection: a fifth of a second.
gc.freeze()
