"""A task that would break a promise is refused before training, naming what and what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lenet_dist.data.dataset import Batch
from lenet_dist.exits import RequestError
from lenet_dist.train.optimizer import check_own_optimizer
from lenet_dist.train.task import Task, cross_entropy
from lenet_dist.train.task_check import check_forward, check_labels, check_model

SAMPLES = Batch(
    torch.randint(0, 256, (16, 8, 8), dtype=torch.uint8), torch.arange(16) % 4, torch.arange(16)
)


class Layers(nn.Module):
    """Logits [n, 4] of 8 x 8 pixels, with a layer in between."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(64, 6), layer, nn.Linear(6, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.last(self.layer(self.first(pixels.flatten(1))))


class Counting(nn.Module):
    """Keeps count of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x


class Relative(nn.Module):
    """Looks at an image beside the others of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_what_keeps_the_rules_passes() -> None:
    for layer in (nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.BatchNorm1d(6).eval()):
        model = Layers(layer)
        check_model(model)
        traits = check_forward(model, model, cross_entropy, SAMPLES)
        assert (traits.classes, traits.draws_random_numbers) == (4, False)


def test_a_model_that_draws_random_numbers_is_known_and_torchs_generator_stays() -> None:
    model, before = Layers(nn.Dropout(0.5)), torch.get_rng_state()
    assert check_forward(model, model, cross_entropy, SAMPLES).draws_random_numbers
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.SyncBatchNorm(6)])
def test_a_layer_with_batch_statistics_is_refused_by_its_name(layer: nn.Module) -> None:
    with pytest.raises(RequestError, match=r"layer \(\w*BatchNorm\w*\) .*GroupNorm or LayerNorm"):
        check_model(Layers(layer))


def test_a_parameter_of_another_type_is_refused_by_its_name() -> None:
    model = Layers(nn.Identity())
    model.last.to(torch.bfloat16)
    with pytest.raises(RequestError, match=r"last\.weight is torch\.bfloat16"):
        check_model(model)
    check_model(Layers(nn.Identity()).requires_grad_(True))
    with pytest.raises(RequestError, match="no parameter that requires a gradient"):
        check_model(Layers(nn.Identity()).requires_grad_(False))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Layers(Counting()), r"changes its buffer layer\.seen"),
        (Layers(Relative()), "depend on the other images"),
        (nn.Identity(), r"must give logits \[n, C\]; it gives \[16, 1, 8, 8\]"),
    ],
)
def test_a_model_that_breaks_a_rule_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_forward(model, model, cross_entropy, SAMPLES)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda logits, labels, _: F.cross_entropy(logits, labels), "not a sum over the samples"),
        (
            lambda logits, labels, _: F.cross_entropy(logits, labels, reduction="none"),
            r"must be a scalar; it is \[16\]",
        ),
    ],
)
def test_a_loss_that_is_no_sum_is_refused(
    loss: Callable[[Tensor, Tensor, float], Tensor], said: str
) -> None:
    model = Layers(nn.Identity())
    with pytest.raises(RequestError, match=said):
        check_forward(model, model, loss, SAMPLES)


def test_a_label_without_a_logit_is_refused() -> None:
    check_labels(torch.tensor([0, 9]), 10)
    with pytest.raises(RequestError, match="label 3 has no logit: the model gives 3"):
        check_labels(SAMPLES.labels, 3)


def test_a_parameter_that_the_tasks_optimizer_leaves_out_is_named() -> None:
    model = Layers(nn.Identity())
    trainable = dict(model.named_parameters())
    check_own_optimizer(torch.optim.SGD(model.parameters(), 0.1), trainable)
    with pytest.raises(RequestError, match=r"leaves out the parameter first\.bias"):
        check_own_optimizer(
            torch.optim.SGD([model.first.weight, *model.last.parameters()], 0.1), trainable
        )
    with pytest.raises(RequestError, match=r"gives no .* but NoneType"):
        check_own_optimizer(None, trainable)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (torch.zeros(4, 8, 8, dtype=torch.float64), torch.zeros(4).long(), "float64"),
        (torch.zeros(4, 8, 8), torch.zeros(4), "labels are torch.float32"),
        (torch.zeros(4, 8, 8), torch.zeros(3).long(), "4 images and 3 labels"),
        (torch.zeros(2, 8, 8), torch.tensor([0, -1]), "a label is -1"),
        ([1], torch.zeros(1).long(), "two tensors"),
    ],
)
def test_a_data_set_of_another_form_is_refused(images: Tensor, labels: Tensor, said: str) -> None:
    task = Task(lambda config: nn.Identity(), dataset=lambda config, split: (images, labels))
    with pytest.raises(RequestError, match=said):
        task.load(None, "train")  # type: ignore[arg-type]
