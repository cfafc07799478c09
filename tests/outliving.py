"""The job, and then what is left of the models that it wrapped: what test_failures starts."""

from __future__ import annotations

import gc

from torch.nn.parallel import DistributedDataParallel

from lenet_dist import train


def main(arguments: list[str]) -> None:
    """Train as asked, and say how many models in DDP there still are."""
    train.main(arguments)
    # By their types: a proxy among all objects may answer for another.
    models = sum(type(item) is DistributedDataParallel for item in gc.get_objects())
    print(f"models in DDP: {models}")
