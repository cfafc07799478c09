"""Per-shard gradients: a shard's bits are its own, whatever is computed beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.amp import GradScaler

from docs.your_own import ResNet
from lenet_dist.data import dataset
from lenet_dist.kernels import native
from lenet_dist.request import load
from lenet_dist.train.clock import Clock
from lenet_dist.train.shard_gradients import (
    COUNTS,
    ManyAtOnce,
    NativeKernel,
    OneByOne,
    is_bit_equal,
)
from lenet_dist.train.state import TrainState, build_state
from lenet_dist.train.task import LENET5, Task
from tests.tasks import Dropout, Transformer

MODELS = {
    "LeNet-5": LENET5,
    "ResNet": Task(lambda config: ResNet()),
    "transformer": Task(lambda config: Transformer()),
}
CONFIG = load(None, ["train.label_smoothing=0.1", "model.mean=0.13", "model.std=0.31"])


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process, and refuses another precision."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)


def state_of(task: Task, precision: str = "no") -> TrainState:
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    return build_state(task, CONFIG, accelerator, Clock(0.0), capturable=False)


def samples(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    images, chosen = dataset.synthetic("train"), slice(first, first + count)
    return dataset.pixels(images.images[chosen]), images.labels[chosen]


def rows_of(gradients: Any, shards: range, size: int) -> Tensor:
    inputs, labels = samples(len(shards) * size, first=shards.start * size)
    return gradients(inputs, labels, shards, 0)


def bits(rows: Tensor) -> Tensor:
    return rows.view(torch.int32)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("model", MODELS)
def test_a_shard_has_its_bits_beside_any_others_in_any_place(model: str, precision: str) -> None:
    gradients = ManyAtOnce(state_of(MODELS[model], precision), MODELS[model].loss, CONFIG, 16)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in (8, 16):
            together = bits(rows_of(gradients, range(16), size))
            for first, stop in ((0, 1), (0, 2), (3, 6), (5, 16), (15, 16)):
                found = bits(rows_of(gradients, range(first, stop), size))
                assert torch.equal(found, together[first:stop]), (threads, size, first, stop)


@pytest.mark.parametrize("model", MODELS)
def test_many_at_once_one_by_one_and_the_kernel_compute_the_same_gradient(model: str) -> None:
    task = MODELS[model]
    state = state_of(task)
    one_by_one = OneByOne(state, task.loss, CONFIG, draws_random_numbers=False)
    expected = rows_of(one_by_one, range(4), 16)
    ways: list[Any] = [ManyAtOnce(state, task.loss, CONFIG, 4)]
    ways += [NativeKernel(state, CONFIG)] if task is LENET5 and native.variant() else []
    for gradients in ways:
        found = rows_of(gradients, range(4), 16)
        assert (found - expected).norm() / expected.norm() < 1e-5
        assert torch.equal(found[:, -1], expected[:, -1])


def test_the_scale_of_fp16_goes_into_the_gradient_and_not_into_the_loss() -> None:
    state = state_of(LENET5)
    for way in (ManyAtOnce, OneByOne):
        options: Any = (2,) if way is ManyAtOnce else ()
        named: Any = {} if way is ManyAtOnce else {"draws_random_numbers": False}
        state.scaler = GradScaler(enabled=False)
        plain = rows_of(way(state, LENET5.loss, CONFIG, *options, **named), range(2), 8)
        state.scaler = GradScaler("cpu", init_scale=1024.0)
        scaled = rows_of(way(state, LENET5.loss, CONFIG, *options, **named), range(2), 8)
        assert torch.equal(scaled[:, :-COUNTS], plain[:, :-COUNTS] * 1024)
        assert torch.equal(scaled[:, -COUNTS:], plain[:, -COUNTS:])


def test_random_numbers_belong_to_the_shard_and_the_step_and_leave_torchs_generator_alone() -> None:
    state = state_of(Task(lambda config: Dropout()))
    gradients = OneByOne(state, LENET5.loss, CONFIG, draws_random_numbers=True)
    inputs, labels = samples(32)
    before = torch.get_rng_state()
    together = gradients(inputs, labels, range(4), 7)
    alone = gradients(inputs[16:24], labels[16:24], range(2, 3), 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(bits(alone), bits(together[2:3]))
    for shard, step in ((3, 7), (2, 8)):
        other = gradients(inputs[16:24], labels[16:24], range(shard, shard + 1), step)
        assert not torch.equal(other, alone)


def test_a_kernel_that_depends_on_the_number_of_shards_is_noticed() -> None:
    class Dependent(ManyAtOnce):
        def __call__(self, pixels: Tensor, labels: Tensor, shards: range, step: int) -> Tensor:
            rows = super().__call__(pixels, labels, shards, step).clone()
            if len(shards) > 1:
                rows[-1, -3] = torch.nextafter(rows[-1, -3], torch.tensor(torch.inf))
            return rows

    state = state_of(LENET5)
    sound = ManyAtOnce(state, LENET5.loss, CONFIG, 4)
    assert is_bit_equal(lambda shards: rows_of(sound, shards, 8), range(4))
    dependent = Dependent(state, LENET5.loss, CONFIG, 4)
    assert not is_bit_equal(lambda shards: rows_of(dependent, shards, 8), range(4))
