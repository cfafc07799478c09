"""What can be checked of the GPU's path where there is no GPU; the rest is in test_gpu.

A fake tensor has a shape, a type and a device, here a GPU, but no numbers: work on them that mixes
devices or reads a number fails. torch's fused updates take none, and autograd's backward pass none
on a GPU; the written-out passes do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_dist.data import dataset
from lenet_dist.data.dataset import Images
from lenet_dist.exits import NodeError
from lenet_dist.machine.clock import Clock
from lenet_dist.model import lenet5, pooling
from lenet_dist.plan import validate
from lenet_dist.processes.accelerator import peer_watch
from lenet_dist.request import load
from lenet_dist.training import optimizer as optimizers
from lenet_dist.training import rows as rows_of_shards
from lenet_dist.training import state as states
from lenet_dist.training.gradient import ByShards
from lenet_dist.training.reduction import ShardSum, blocks
from lenet_dist.training.rows import COUNTS, ByHand, filled, one_by_one, side_by_side
from lenet_dist.training.step import TrainStep
from lenet_dist.training.task import LENET5
from tests.commands import command

GPU = torch.device("cuda")


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
            assert not isinstance(value, Tensor) or value.device.type == "cuda", operation
        return result


@pytest.fixture
def fake() -> Iterator[None]:
    pooling._shifts.cache_clear()
    with FakeTensorMode(allow_fallback_kernels=False), WithoutFusedUpdate():
        yield
    pooling._shifts.cache_clear()


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd"])
@pytest.mark.parametrize("shards", [1, 4, 16])
def test_a_step_on_a_gpu_computes_nothing_elsewhere_and_reads_nothing_from_it(
    fake: None, optimizer: str, shards: int
) -> None:
    settings = ["data.name=synthetic", f"optimizer.name={optimizer}", f"train.shards={shards}"]
    distorted = ["augment.elastic=0.05", "augment.shear=0.1", "augment.fade=0.5"]
    config = load(None, [*settings, *distorted, "train.clip_norm=1"])
    plan = validate(config, 1)
    with GPU:
        model = LENET5.model(config)
        images = Images(torch.zeros(9000, 28, 28, dtype=torch.uint8), torch.zeros(9000).long())
        ids = torch.zeros(plan.batch_size, dtype=torch.int64)
    state = states.build(model, config, Accelerator(cpu=True), Clock(0.0), capturable=True)
    rows = filled(ByHand(model, config.train), 16)
    width = lenet5.PARAMETERS + COUNTS
    total = ShardSum(plan.dealt, 0, width, gather=lambda rows: rows, device=GPU)
    of_batch = ByShards(rows, blocks(plan.dealt[0], shards), plan.shard_size, total)
    step = TrainStep(plan, of_batch, state)
    step.set_numbers(0)
    step.take(images.batch_of(ids))  # The first step makes what is kept.
    with OnlyOnGpu():
        step.set_numbers(1)
        stats = step.take(images.batch_of(ids))
    assert all(number.shape == () for number in stats)


def test_the_forward_pass_that_autograd_follows_stays_on_the_gpu_too(fake: None) -> None:
    config = load()
    with GPU:
        model, inputs = LENET5.model(config), torch.zeros(64, 1, 28, 28)
        labels = torch.zeros(64, dtype=torch.int64)
    with OnlyOnGpu():
        logits = model(inputs)
        loss = LENET5.loss(logits, labels, 0.1)
        correct = rows_of_shards.correct(logits, labels)
    assert loss.shape == correct.shape == ()


@pytest.mark.parametrize(("size", "shards"), [(1, 3), (16, 4), (5, 1)])
def test_weight_gradients_as_a_product_are_those_of_the_convolution(size: int, shards: int) -> None:
    generator = torch.Generator().manual_seed(size)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = size * shards
    for inputs, gradient, kernel_size, stride, padding in (
        (drawn(n, 1, 28, 28), drawn(n, 24, 14, 14), (6, 6), 2, 2),
        (drawn(n, 6, 14, 14), drawn(n, 16, 10, 10), (5, 5), 1, 0),
    ):
        found = pooling.weight_gradients_by_product(
            gradient, inputs, kernel_size, shards, stride, padding
        )
        expected = pooling.weight_gradients(
            gradient, inputs, kernel_size, shards, stride=stride, padding=padding
        )
        torch.testing.assert_close(found, expected)


def samples(count: int) -> tuple[Tensor, Tensor]:
    images = dataset.synthetic("train")
    return dataset.pixels(images.images[:count]), images.labels[:count]


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_a_block_that_is_filled_up_has_the_rows_of_its_shards(shards: int) -> None:
    by_hand = ByHand(lenet5.build(0, 0.0, 1.0), load().train)
    sizes: list[int] = []

    def counted(inputs: Tensor, labels: Tensor, shards: int = 1, /) -> Tensor:
        sizes.append(shards)
        return by_hand(inputs, labels, shards)

    images, labels = samples(shards * 16)
    found = filled(counted, 8)(images, labels, shards)
    assert torch.equal(found, by_hand(images, labels, shards))
    assert sizes == [8]


class Stream:
    """Knows what has happened before the end of its work."""

    current: Stream

    def __init__(self, device: torch.device) -> None:
        self.happened: set[str] = set()

    def wait_stream(self, other: Stream) -> None:
        self.happened |= other.happened


@contextmanager
def within(stream: Stream) -> Iterator[None]:
    before, Stream.current = Stream.current, stream
    yield
    Stream.current = before


def test_shards_side_by_side_wait_for_their_inputs_and_their_sum_waits_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream.current)
    Stream.current = main = Stream(GPU)
    used: list[Stream] = []
    step = 0

    def row_of_shard(inputs: Tensor, labels: Tensor) -> Tensor:
        # A stream may reuse its memory: what the step before has read from it must have been read.
        assert {f"inputs {step}", f"sum {step - 1}"} <= Stream.current.happened
        Stream.current.happened.add(f"row {step}.{int(labels[0])}")
        used.append(Stream.current)
        return inputs.sum()[None, None]

    rows = side_by_side(row_of_shard, GPU)
    main.happened.add("sum -1")
    images, labels = torch.arange(60.0), torch.arange(20).repeat_interleave(3)
    for step in range(2):
        main.happened.add(f"inputs {step}")
        found = rows(images, labels, 20)
        assert torch.equal(found, one_by_one(lambda i, _: i.sum()[None, None])(images, labels, 20))
        assert {f"row {step}.{shard}" for shard in range(20)} <= main.happened
        main.happened.add(f"sum {step}")
    assert len(set(used)) > 1 and main not in used


def test_sgd_goes_on_from_no_momentum_after_a_first_step_that_the_scaler_skipped() -> None:
    config = load(None, ["optimizer.name=sgd", "optimizer.weight_decay=0"]).optimizer
    model = torch.nn.Linear(100, 10, bias=False)
    weights = torch.nn.Parameter(torch.zeros(1000))
    sgd: Any = optimizers.build(config, model, weights, skips=True)
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
        "import torch; from lenet_dist.processes import accelerator; accelerator._set_up_gpu();"
        "print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision)"
    )
    variable = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    assert command("python", "-c", script, environment=variable).stdout == "highest ieee\n"
