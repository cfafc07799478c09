"""What can be checked of the GPU's path where there is no GPU; the rest is in test_gpu."""

from __future__ import annotations

import pytest
import torch

from lenet_dist.exits import NodeError
from lenet_dist.processes.accelerator import peer_watch


def test_processes_with_the_same_gpu_are_told_so_and_not_that_one_was_lost() -> None:
    said = "NCCL error in: init.cpp:7, invalid usage\nncclInvalidUsage: ...\nLast error:\n"
    said += "Duplicate GPU detected : rank 0 and rank 1"
    refused = torch.distributed.DistBackendError(said)
    with pytest.raises(NodeError, match="has the same GPU as another process"), peer_watch(120):
        raise refused
