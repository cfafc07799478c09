"""What can be checked of the GPU's path where there is no GPU; the rest is in test_gpu.

A tensor on torch's meta device has a shape and a type but no numbers: work that mixes it with
others or reads a number fails, as it would wait for a GPU. torch's fused updates take none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.distributed import HashStore, TCPStore
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_dist.config import Compute
from lenet_dist.data.dataset import Images
from lenet_dist.distributed import accelerator, waiting
from lenet_dist.distributed.accelerator import peer_watch, start_accelerator
from lenet_dist.distributed.shared_gpu import refuse_shared_gpus
from lenet_dist.distributed.stop import Action, StopConsensus, StopRequest
from lenet_dist.exits import NodeError, RequestError
from lenet_dist.plan import validate
from lenet_dist.request import load
from lenet_dist.system import Place
from lenet_dist.train import process_state
from lenet_dist.train.clock import Clock
from lenet_dist.train.state import build_state
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5
from lenet_dist.train.trainer import Trainer
from tests.bare_trainer import bare_trainer
from tests.commands import command
from tests.processes import Jobs

ENVIRONMENT_OF_TWO = {
    "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}  # fmt: skip
GPU = torch.device("meta")


class WithoutFusedUpdate(TorchDispatchMode):
    """Leaves out what no fake tensor can go through."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        is_fused_update = operation.name().startswith("aten::_fused_")
        return None if is_fused_update else operation(*args, **(kwargs or {}))


class OnlyOnGpu(TorchDispatchMode):
    """Fails at an operation that takes or makes a tensor elsewhere than on the GPU."""

    def __init__(self, device: torch.device = GPU) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for value in _pytree.tree_leaves((args, kwargs, result)):
            is_number = not isinstance(value, Tensor) or not value.dim()  # As torch.func has them.
            assert is_number or value.device == self.device, operation
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
        stopwatch = Stopwatch(torch.device("cpu"))
        trainer = bare_trainer(plan, on_gpu(), state, stopwatch, images, ids)
    # The first step makes what is kept.
    trainer.train_step(images.batch_of(ids), 0, trainer.step_params.set(0))
    with OnlyOnGpu():
        stats = trainer.train_step(images.batch_of(ids), 1, trainer.step_params.set(1))
    assert all(number.shape == () for number in stats)


@pytest.mark.parametrize(("asked", "options"), [("true", {"deterministic": True}), ("false", None)])
def test_a_compiled_model_on_a_gpu_has_kernels_that_are_not_chosen_by_timing(
    numberless: None, monkeypatch: pytest.MonkeyPatch, asked: str, options: object
) -> None:
    compiled: list[object] = []
    by_torch = torch.nn.Module.compile

    def compile_it(model: torch.nn.Module, **how: Any) -> None:
        compiled.append(how.get("options"))
        by_torch(model, **how)  # Refuses options that it doesn't know.

    monkeypatch.setattr(torch.nn.Module, "compile", compile_it)
    config = load(None, ["compute.compile=true", f"compute.deterministic={asked}"])
    with GPU:
        build_state(LENET5, config, on_gpu(), Clock(0.0), capturable=True)
    assert compiled == [options]


def on_gpu() -> Accelerator:
    """Accelerate on a CPU, which takes models to be on a GPU already."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.device = GPU
    return accelerator


def test_an_agreement_is_sent_without_a_wait_for_the_gpu() -> None:
    def send(row: Tensor) -> Tensor:
        sent.append(row)
        raise InterruptedError

    sent: list[Tensor] = []
    gpu = torch.device("cuda", 0)  # On the meta device a tensor of numbers is made in place.
    here = SimpleNamespace(num_processes=2, device=gpu)
    with FakeTensorMode():
        consensus = StopConsensus(StopRequest(), cast(Accelerator, here), send)
        with OnlyOnGpu(gpu), pytest.raises(InterruptedError):
            consensus.reach(8, Action.SAVE)
    assert sent[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (["GPU-1", "GPU-2", "GPU-1"], "ranks 0 and 2 have the same GPU on node1 (H200, GPU-1)"),
        (["GPU-1", "GPU-2", "GPU-3"], None),
    ],
)
def test_processes_with_the_same_gpu_are_named_before_nccl_connects_them(
    gpus: list[str], said: str | None
) -> None:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def meet(rank: int) -> None:
        store = TCPStore("127.0.0.1", server.port)
        refuse_shared_gpus(store, Place(rank, "node1", f"H200, {gpus[rank]}"), len(gpus))

    with ThreadPoolExecutor() as pool:
        starts = [pool.submit(meet, rank) for rank in range(len(gpus))]
        errors = [start.exception() for start in starts]
    assert all(str(error).startswith(str(said)) for error in errors)


def test_a_start_on_gpus_looks_for_shared_ones_and_ends_before_nccl_would_abort_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}
    here = SimpleNamespace(num_processes=2, process_index=0, device=torch.device("cuda", 0))
    store = HashStore()
    monkeypatch.setattr(accelerator, "Accelerator", lambda **how: asked.update(how) or here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    c10d = torch.distributed.distributed_c10d
    monkeypatch.setattr(c10d, "_get_default_store", lambda: store)
    place = Place(0, "node1", "H200, GPU-1")
    monkeypatch.setattr(accelerator, "place_of", lambda _: place)
    monkeypatch.setattr(waiting, "limit_waits", lambda *how, **more: asked.update(more))
    for name, value in ENVIRONMENT_OF_TWO.items():
        monkeypatch.setenv(name, value)
    with process_state.put_back():
        store.set("lenet_dist/gpu/1", json.dumps([place.host, place.device]))
        with pytest.raises(RequestError, match="ranks 0 and 1 have the same GPU on node1"):
            start_accelerator(Compute())
        monkeypatch.setenv("NCCL_MULTI_RANK_GPU_ENABLE", "1")
        start_accelerator(Compute())
    of_group, _ = asked["kwargs_handlers"]
    assert asked["on_gpu"] and of_group.timeout.total_seconds() == Compute().timeout_seconds + 60


def test_steps_that_a_gpu_has_not_done_yet_do_not_count_as_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: time.sleep(0.2))
    trainer: Any = Trainer.__new__(Trainer)
    trainer.stopwatch = Stopwatch(torch.device("cuda", 0))
    clock = Clock(time.monotonic())
    clock.switch("train")
    trainer.state, trainer.config = SimpleNamespace(clock=clock), None
    trainer.task = SimpleNamespace(build=build)
    with pytest.raises(InterruptedError):
        trainer.evaluate("test", None)
    assert clock.seconds["train"] >= 0.2


@pytest.mark.processes
def test_a_process_that_waits_for_the_gpu_for_ever_ends_by_itself(jobs: Jobs) -> None:
    record = jobs.folder / "record-"
    environment = {"FROZEN_AT": "20", "TORCH_FR_DUMP_TEMP_FILE": str(record)}
    how: dict[str, Any] = {"environment": environment, "module": "tests.frozen", "world_size": 2}
    began = time.monotonic()
    job = jobs.start("compute.timeout_seconds=2", **how).expect(1)
    assert time.monotonic() - began < 60
    for rank in job.ranks:
        assert "lost another process, or waited for it longer than" in rank.text()
    assert all(record.with_name(f"record-{rank}").stat().st_size for rank in range(2))
    assert "Traceback" not in job.text()


@pytest.mark.processes
def test_a_process_whose_every_step_waits_for_the_gpu_for_a_while_goes_on(jobs: Jobs) -> None:
    slow = ("compute.timeout_seconds=1", "train.max_steps=12", "compute.audit_every=0")
    jobs.run(*slow, environment={"SECONDS": "0.6"}, module="tests.frozen", world_size=2)


@pytest.mark.parametrize(
    "said",
    [
        "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
        "Multiple Ranks are using the same GPU/Partition. Set NCCL_MULTI_RANK_GPU_ENABLE=1 to",
    ],
)
def test_processes_with_the_same_gpu_are_told_so_and_not_that_one_was_lost(said: str) -> None:
    text = f"NCCL error in: init.cpp:7, invalid usage\nncclInvalidUsage: ...\nLast error:\n{said}"
    refused = torch.distributed.DistBackendError(text)
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
