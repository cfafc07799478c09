"""Evaluation: every image once, and the numbers of a plain computation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from lenet_dist.data.dataset import Images, pixels
from lenet_dist.model import lenet5
from lenet_dist.model.lenet5 import LeNet5
from lenet_dist.train.exact_evaluation import evaluate


@pytest.fixture
def accelerator(clean_environment: None) -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def model() -> LeNet5:
    """Untrained, but with an opinion: its logits differ enough for several predictions."""
    made = lenet5.build(3, 0.5, 0.1)
    with torch.no_grad():
        made.OUT.weight.mul_(10)
    return made


@pytest.mark.parametrize("chunk_size", [1, 7, 50, 133, 200, 1000])
def test_it_gives_the_numbers_of_one_plain_batch(
    accelerator: Accelerator, model: LeNet5, chunk_size: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (200, 28, 28), dtype=torch.uint8, generator=draw)
    images = Images(noise, torch.randint(0, 10, (200,), generator=draw))
    result = evaluate(model, images, 10, chunk_size, accelerator)

    with torch.no_grad():
        logits = model(pixels(images.images))
    predictions, labels = logits.argmax(1).tolist(), images.labels.tolist()
    pairs = list(zip(labels, predictions, strict=True))
    table = [[pairs.count((label, guess)) for guess in range(10)] for label in range(10)]
    right = [sum(p == label for _, p in pairs if _ == label) for label in range(10)]
    assert len(set(predictions)) > 2, "or the test says little"
    assert result.confusion == table
    assert result.count == 200
    assert result.correct == sum(right)
    assert result.accuracy == sum(right) / 200
    assert result.per_class_accuracy == [n / labels.count(i) for i, n in enumerate(right)]
    assert result.loss == pytest.approx(F.cross_entropy(logits, images.labels).item(), rel=1e-5)
