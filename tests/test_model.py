"""LeNet-5, the EMA of its weights, and weights as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lenet_dist.benchmark.baselines import DocumentLeNet
from lenet_dist.exits import RequestError
from lenet_dist.model import lenet5, weights
from lenet_dist.model.ema import Ema
from lenet_dist.model.inference import forward_of
from lenet_dist.model.lenet5 import LeNet5
from tests.exporting import pixels as random_pixels
from tests.properties import PROPERTY


def test_it_has_61706_parameters_and_nothing_else_in_its_state() -> None:
    model = lenet5.build(0, 0.1307, 0.3081)
    assert sum(p.numel() for p in model.parameters()) == 61_706 == lenet5.PARAMETERS
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("count", [1, 7, 64])
def test_weights_of_the_seed_documents_class_load_and_give_the_same_logits(count: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        original, model = DocumentLeNet(), LeNet5()
    model.load_state_dict(original.state_dict(), strict=True)
    pixels = random_pixels(count)
    expected, logits = original(pixels), model(pixels)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_forward_pass_alone_gives_the_models_logits(count: int, kernels: str) -> None:
    model, pixels = LeNet5(0.13, 0.31), random_pixels(count)
    logits = forward_of(model, kernels)(pixels)
    assert logits.shape == (count, 10) and not logits.requires_grad
    torch.testing.assert_close(logits, model(pixels).detach(), rtol=1e-5, atol=1e-5)


def test_mean_and_std_standardise_the_pixels() -> None:
    plain, scaled = lenet5.build(0, 0.0, 1.0), lenet5.build(0, 0.1307, 0.3081)
    pixels = random_pixels(16)
    expected = plain((pixels - 0.1307) / 0.3081)
    torch.testing.assert_close(scaled(pixels), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(scaled(pixels), plain(pixels), atol=1e-3)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in states)


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    first = lenet5.build(4, 0.0, 1.0)
    torch.rand(100)
    assert same_weights(first, lenet5.build(4, 0.0, 1.0))
    assert same_weights(first, lenet5.build(4, 0.5, 2.0))
    assert not same_weights(first, lenet5.build(5, 0.0, 1.0))


@PROPERTY
@given(decay=st.sampled_from([0.5, 0.9, 0.99, 0.999]), steps=st.integers(1, 40))
def test_the_moving_average_is_that_of_a_plain_loop(decay: float, steps: int) -> None:
    weights, generator = torch.zeros(8), torch.Generator().manual_seed(steps)
    average, expected = Ema(weights, decay), weights.double()
    for step in range(1, steps + 1):
        weights.copy_(torch.randn(8, generator=generator))
        average.update(average.weight(step))
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * weights.double()
    torch.testing.assert_close(average.mean.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.1307, 0.3081)])
def test_weights_and_scale_are_read_as_they_were(tmp_path: Path, mean: float, std: float) -> None:
    model = lenet5.build(2, mean, std)
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights.to_bytes(dict(model.state_dict()), mean, std))
    back = weights.read(file)
    assert same_weights(back, model)
    assert (back.mean, back.std) == (mean, std)
    pixels = random_pixels(4)
    assert torch.equal(back(pixels), model(pixels))


def whole() -> dict[str, Tensor]:
    return dict(lenet5.build(0, 0.0, 1.0).state_dict())


def file_of(tensors: dict[str, Tensor], scale: str | None = None) -> bytes:
    return safetensors.torch.save(tensors, {"lenet_dist": scale} if scale else None)


NOT_WEIGHTS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "junk": lambda: b"junk" * 100,
    "cut": lambda: file_of(whole())[:-100],
    "pickle": lambda: b"PK\x03\x04" + bytes(1000),
    "other shape": lambda: file_of(whole() | {"OUT.weight": torch.zeros(11, 84)}),
    "one missing": lambda: file_of({k: v for k, v in whole().items() if k != "C1.bias"}),
    "one too many": lambda: file_of(whole() | {"more": torch.zeros(1)}),
    "scale not JSON": lambda: file_of(whole(), "{"),
    "scale of another kind": lambda: file_of(whole(), json.dumps([1, 2])),
    "scale with another key": lambda: file_of(whole(), json.dumps({"median": 1})),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_what_is_not_its_weights_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(NOT_WEIGHTS[kind]())
    with pytest.raises(RequestError) as refusal:
        weights.read(file)
    assert str(file) in str(refusal.value)
    assert "\n" not in str(refusal.value)
