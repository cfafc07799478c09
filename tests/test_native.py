"""The compiled kernels: one set of bits for any threads, company and instruction set, close to
float64; and what can't be computed is refused or shows."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lenet_dist.data import dataset
from lenet_dist.kernels import native
from lenet_dist.model import lenet5
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.predict import PRETRAINED
from lenet_dist.train.tree_allreduce import tree_sum
from tests.test_tree_allreduce import random_rows

MEAN, STD, SMOOTHING = 0.1307, 0.3081, 0.1
VARIANTS = native.variants()

if not VARIANTS:
    pytest.skip(f"needs a compiled kernel: {native.reason()}", allow_module_level=True)


@contextmanager
def computing(threads: int, variant: str = VARIANTS[0]) -> Iterator[None]:
    """The kernels' calls are on so many threads, by this variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_threads", threads)
        patch.setattr(native, "variant", lambda: variant)
        yield


@functools.cache
def model() -> LeNet5:
    """Trained: before that much is alike."""
    trained = LeNet5(MEAN, STD)
    trained.load_state_dict(load_file(PRETRAINED))
    return trained


@functools.cache
def weights() -> Tensor:
    return torch.cat([p.detach().flatten() for p in model().parameters()])


@functools.cache
def all_images() -> dataset.Images:
    return dataset.synthetic("train")


def samples(count: int, first: int = 0) -> tuple[Tensor, Tensor]:
    images, chosen = all_images(), slice(first, first + count)
    return dataset.pixels(images.images[chosen]), images.labels[chosen]


def rows(pixels: Tensor, labels: Tensor, shards: int = 1, **how: Any) -> Tensor:
    settings = {"mean": MEAN, "std": STD, "smoothing": SMOOTHING, "batch_size": 64} | how
    return native.shard_gradients(weights(), pixels, labels, shards, **settings)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def test_a_shard_of_any_size_has_the_same_bits_alone_and_beside_others() -> None:
    for size in (*range(1, 35), 63, 64, 65, 100, 127, 128, 255, 256):
        pixels, labels = samples(3 * size, first=size)
        with computing(threads=2):
            together = rows(pixels, labels, 3)
        for shard, part in enumerate(zip(pixels.split(size), labels.split(size), strict=True)):
            assert same(rows(*part), together[shard : shard + 1]), (size, shard)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_number_of_threads_gives_the_same_bits(variant: str) -> None:
    pixels, labels = samples(340)
    expected = rows(pixels, labels, 17)
    expected_logits = native.logits(weights(), pixels, mean=MEAN, std=STD)
    for threads in (1, 2, 3, 8, 17):
        with computing(threads, variant):
            assert same(rows(pixels, labels, 17), expected)
            found = native.logits(weights(), pixels, mean=MEAN, std=STD)
            assert same(found, expected_logits)


def exact(pixels: Tensor, labels: Tensor, smoothing: float, batch_size: int) -> Tensor:
    """A shard's row by autograd in float64."""
    double = lenet5.build(0, MEAN, STD).double()
    double.load_state_dict({name: p.double() for name, p in model().state_dict().items()})
    logits = double(pixels.double())
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    gradients = torch.autograd.grad(loss / batch_size, list(double.parameters()))
    correct = (logits.argmax(1) == labels).sum()
    parts = (*gradients, loss.detach(), correct)
    return torch.cat([part.flatten().double() for part in parts])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("shards", "size"), [(8, 8), (2, 64), (3, 5), (2, 20)])
def test_gradients_are_those_of_float64(shards: int, size: int, smoothing: float) -> None:
    pixels, labels = samples(shards * size)
    found = rows(pixels, labels, shards, smoothing=smoothing, batch_size=100)
    sizes = [p.numel() for p in model().parameters()] + [1, 1]
    for shard, part in enumerate(zip(pixels.split(size), labels.split(size), strict=True)):
        expected = exact(*part, smoothing, 100)
        for a, b in zip(found[shard].double().split(sizes), expected.split(sizes), strict=True):
            assert (a - b).norm() <= 2e-6 * b.norm()


@pytest.mark.parametrize("count", [1, 17, 1000])
def test_logits_are_those_of_float64(count: int) -> None:
    pixels, _ = samples(count)
    double = lenet5.build(0, MEAN, STD).double()
    double.load_state_dict({name: p.double() for name, p in model().state_dict().items()})
    with torch.no_grad():
        expected = double(pixels.double())
    found = native.logits(weights(), pixels, mean=MEAN, std=STD).double()
    assert (found - expected).norm() < 2e-6 * expected.norm()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [*range(1, 10), 17, 64, 65, 200])
def test_the_tree_has_the_bits_of_torchs(count: int, variant: str) -> None:
    some = random_rows(count, 1100)
    for threads in (1, 2, 3):
        with computing(threads, variant):
            assert same(native.tree_sum(some), tree_sum(some))


@pytest.mark.parametrize("label", [-1, 10, 2**40])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    pixels, labels = samples(16)
    wrong = labels.clone()
    wrong[-1] = label
    with pytest.raises(ValueError, match="labels must be from 0 to 9"):
        rows(pixels, wrong, 2)


@pytest.mark.parametrize(
    ("pixels", "labels", "shards", "message"),
    [
        (torch.zeros(8, 1, 28, 28).double(), torch.zeros(8).long(), 1, "pixels must be float32"),
        (torch.zeros(8, 28, 28), torch.zeros(8).long(), 1, "pixels must be float32"),
        (torch.zeros(8, 1, 28, 56)[..., ::2], torch.zeros(8).long(), 1, "contiguous"),
        (torch.zeros(8, 1, 28, 28), torch.zeros(8), 1, "labels must be int64"),
        (torch.zeros(8, 1, 28, 28), torch.zeros(8).long(), 3, "3 equal shards"),
    ],
)
def test_what_is_no_batch_is_refused(
    pixels: Tensor, labels: Tensor, shards: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rows(pixels, labels, shards)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_pixel_that_is_no_number_shows_in_the_loss(value: float) -> None:
    pixels, labels = samples(32)
    expected = rows(pixels, labels, 4)
    for place in (0, 14 * 28 + 14, 783):
        struck = pixels.clone()
        struck.view(32, 784)[9, place] = value
        found = rows(struck, labels, 4)
        assert not found[1, -2].isfinite(), place
        assert not found[1, :-2].isfinite().all(), place
        if value != value:
            assert found[1, -12:-2].isnan().all(), place
        assert same(found[[0, 2, 3]], expected[[0, 2, 3]]), place


def test_a_process_forked_while_another_thread_computes_computes_as_well() -> None:
    pixels, labels = samples(64)
    expected = rows(pixels, labels, 8)
    is_over = threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            rows(pixels, labels, 8)

    with computing(threads=2):
        other = threading.Thread(target=compute)
        other.start()
        try:
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    os._exit(0 if same(rows(pixels, labels, 8), expected) else 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            is_over.set()
            other.join()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_shows_in_the_loss_where_torchs_does(value: float) -> None:
    pixels, labels = samples(8)
    ends = torch.tensor([p.numel() for p in model().parameters()]).cumsum(0)
    for place in (*(ends - 1).tolist(), 0, 160, 3000):
        struck = weights().clone()
        struck[place] = value
        network = lenet5.build(0, MEAN, STD)
        torch.nn.utils.vector_to_parameters(struck, network.parameters())
        loss = F.cross_entropy(network(pixels), labels, reduction="sum", label_smoothing=0.1)
        found = native.shard_gradients(
            struck, pixels, labels, 1, mean=MEAN, std=STD, smoothing=0.1, batch_size=8
        )
        assert found[0, -2].isfinite() == loss.isfinite(), place


@pytest.mark.parametrize("scale", [1e10, 1e30])
def test_weights_that_overflow_show_in_the_loss_where_torchs_do(scale: float) -> None:
    pixels, labels = samples(8)
    network = lenet5.build(0, MEAN, STD)
    torch.nn.utils.vector_to_parameters(weights() * scale, network.parameters())
    loss = F.cross_entropy(network(pixels), labels, reduction="sum")
    assert not loss.isfinite()
    found = native.shard_gradients(
        weights() * scale, pixels, labels, 1, mean=MEAN, std=STD, smoothing=0.0, batch_size=8
    )
    assert not found[0, -2].isfinite()


@pytest.mark.parametrize("layer", ["C1", "C3"])
@pytest.mark.parametrize("place", range(4))
def test_pooling_keeps_a_single_nan_among_values_that_relu_cuts(layer: str, place: int) -> None:
    """Infinity times a weight of zero is NaN, at one place of a window; elsewhere -infinity."""
    pixels, labels = samples(2)
    network = lenet5.build(0, MEAN, STD)
    with torch.no_grad():
        getattr(network, layer).weight.abs_().neg_()[:, 0, place // 2, place % 2] = 0
        if layer == "C1":
            pixels[0, 0, 14, 14] = float("inf")
        else:
            # One output of C1 overflows, and no other is that large.
            pixels[0, 0, 14, 14] = 1e38
            network.C1.weight.zero_()[0, 0, 2, 2] = 2
        assert F.cross_entropy(network(pixels), labels).isnan()
    struck = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    settings = {"mean": MEAN, "std": STD, "smoothing": 0.0, "batch_size": 8}
    assert native.shard_gradients(struck, pixels, labels, 1, **settings)[0, -2].isnan()
