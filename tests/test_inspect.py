"""What a model has learned and where it fails."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lenet_dist.model import inspect, lenet5
from tests.properties import PROPERTY


def random_samples(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and images."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 10, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    images = torch.randint(256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return logits, labels, images


@PROPERTY
@given(size=st.integers(0, 40), seed=st.integers(0, 100), count=st.integers(0, 50))
def test_worst_mistakes_are_the_wrong_ones_most_certain_first(
    size: int, seed: int, count: int
) -> None:
    logits, labels, images = random_samples(size, seed)
    mistakes = inspect.worst_mistakes(logits, labels, images, count)
    probabilities = logits.double().softmax(1)
    certainty = {
        sample_id: float(row.max())
        for sample_id, row in enumerate(probabilities)
        if row.argmax() != labels[sample_id]
    }
    expected = sorted(certainty, key=lambda sample_id: -certainty[sample_id])[:count]
    assert [mistake.sample_id for mistake in mistakes] == expected
    for mistake in mistakes:
        assert mistake.label == labels[mistake.sample_id] != mistake.prediction
        assert mistake.prediction == probabilities[mistake.sample_id].argmax()
        assert abs(mistake.probability - certainty[mistake.sample_id]) < 1e-12
        assert torch.equal(mistake.image, images[mistake.sample_id])


def test_mistakes_of_equal_certainty_come_in_the_samples_order() -> None:
    logits = F.one_hot(torch.zeros(50, dtype=torch.int64), 10).float()
    mistakes = inspect.worst_mistakes(logits, torch.ones(50), torch.zeros(50, 28, 28), 5)
    assert [mistake.sample_id for mistake in mistakes] == [0, 1, 2, 3, 4]


def test_feature_maps_are_those_that_the_logits_come_from() -> None:
    model = lenet5.build(0, 0.1307, 0.3081)
    pixels = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    s2, s4 = inspect.feature_maps(model, pixels)
    assert (s2.shape, s4.shape) == ((6, 14, 14), (16, 5, 5))
    x = F.conv2d((pixels[None] - 0.1307) / 0.3081, model.C1.weight, model.C1.bias, padding=2)
    torch.testing.assert_close(s2, F.max_pool2d(F.relu(x), 2)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        s4, F.max_pool2d(F.relu(F.conv2d(s2, model.C3.weight, model.C3.bias)), 2),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    logits = model.OUT(F.relu(model.F6(F.relu(model.C5(s4[None]).flatten(1)))))
    torch.testing.assert_close(logits, model(pixels[None]), rtol=1e-5, atol=1e-5)
