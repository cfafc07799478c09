"""What can be checked of the GPU's path where there is no GPU; the rest is in test_gpu.

A tensor on torch's meta device has a shape and a type but no numbers: work that mixes it with
others or reads a number fails, as it would wait for a GPU. torch's fused updates take none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_dist.data.dataset import Images
from lenet_dist.distributed.accelerator import peer_watch
from lenet_dist.exits import NodeError
from lenet_dist.plan import validate
from lenet_dist.request import load
from lenet_dist.train.clock import Clock
from lenet_dist.train.optimizer import build_optimizer
from lenet_dist.train.state import build_state
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5
from tests.bare_trainer import bare_trainer
from tests.commands import command

GPU = torch.device("meta")


class WithoutFusedUpdate(TorchDispatchMode):
    """Leaves out what no fake tensor can go through."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        is_fused_update = operation.name().startswith("aten::_fused_")
        return None if is_fused_update else operation(*args, **(kwargs or {}))


class OnlyOnGpu(TorchDispatchMode):
    """Fails at an operation that takes or makes a tensor elsewhere than on the GPU."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for value in _pytree.tree_leaves((args, kwargs, result)):
            is_number = not isinstance(value, Tensor) or not value.dim()  # As torch.func has them.
            assert is_number or value.device == GPU, operation
        return result


@pytest.fixture
def numberless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fused = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(fused, "_get_fused_kernels_supported_devices", lambda: ["cuda", "meta"])
    AcceleratorState._reset_state(reset_partial_state=True)
    with WithoutFusedUpdate():
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd"])
@pytest.mark.parametrize("shards", [1, 4, 16])
def test_a_step_on_a_gpu_computes_nothing_elsewhere_and_reads_nothing_from_it(
    numberless: None, optimizer: str, shards: int
) -> None:
    settings = ["data.name=synthetic", f"optimizer.name={optimizer}", f"train.shards={shards}"]
    augmented = ["augment.elastic=0.05", "augment.shear=0.1", "augment.fade=0.5"]
    config = load(None, [*settings, *augmented, "train.clip_norm=1", "compute.audit_every=0"])
    plan = validate(config, 1)
    with GPU:
        images = Images(torch.zeros(9000, 28, 28, dtype=torch.uint8), torch.zeros(9000).long())
        ids = torch.zeros(plan.batch_size, dtype=torch.int64)
        state = build_state(LENET5, config, on_gpu(), Clock(0.0), capturable=True)
        trainer = bare_trainer(plan, on_gpu(), state, Stopwatch(torch.device("cpu")), ids)
    # The first step makes what is kept.
    trainer.train_step(images.batch_of(ids), 0, trainer.step_params.set(0))
    with OnlyOnGpu():
        stats = trainer.train_step(images.batch_of(ids), 1, trainer.step_params.set(1))
    assert all(number.shape == () for number in stats)


def on_gpu() -> Accelerator:
    """Accelerate on a CPU, which takes models to be on a GPU already."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.device = GPU
    return accelerator


def test_sgd_goes_on_from_no_momentum_after_a_first_step_that_the_scaler_skipped() -> None:
    config = load(None, ["optimizer.name=sgd", "optimizer.weight_decay=0"]).optimizer
    weights = torch.nn.Parameter(torch.zeros(1000))
    sgd: Any = build_optimizer(config, {}, weights, skips=True)
    for found_inf in (1.0, 0.0):
        weights.grad = torch.ones(1000)
        sgd.grad_scale, sgd.found_inf = None, torch.tensor(found_inf)
        sgd.step()
    assert torch.equal(weights.detach(), torch.full((1000,), -config.lr))


def test_processes_with_the_same_gpu_are_told_so_and_not_that_one_was_lost() -> None:
    said = "NCCL error in: init.cpp:7, invalid usage\nncclInvalidUsage: ...\nLast error:\n"
    said += "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000"
    refused = torch.distributed.DistBackendError(said)
    with pytest.raises(NodeError, match="has the same GPU as another process"), peer_watch(120):
        raise refused


@pytest.mark.processes
def test_no_variable_has_products_of_matrices_rounded_to_tf32() -> None:
    script = (
        "import torch; from lenet_dist.distributed import accelerator; accelerator._set_up_gpu();"
        "print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision)"
    )
    variable = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    assert command("python", "-c", script, environment=variable).stdout == "highest ieee\n"
