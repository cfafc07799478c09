"""Muon is what its authors say, and AdamW for all that is no hidden layer's matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lenet_dist.config import Optimizer
from lenet_dist.model import lenet5
from lenet_dist.model.flat import flatten
from lenet_dist.train.optimizer import build_optimizer

CONFIG = Optimizer(name="muon", lr=0.01, weight_decay=0.1, beta1=0.95)


def trained(model: nn.Module, steps: int = 3) -> tuple[torch.optim.Optimizer, nn.Parameter]:
    """Muon after some steps on a model, by gradients that are the same each time, and the flat
    weights."""
    generator = torch.Generator().manual_seed(0)
    weights = flatten(list(model.parameters()))
    optimizer = build_optimizer(CONFIG, dict(model.named_parameters()), weights)
    for _ in range(steps):
        weights.grad = torch.randn(weights.shape, generator=generator)
        optimizer.step()
    return optimizer, weights


def gradients(model: nn.Module, steps: int = 3) -> list[list[torch.Tensor]]:
    """The same gradients, by parameter."""
    generator = torch.Generator().manual_seed(0)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    flat = [torch.randn(sum(sizes), generator=generator).split(sizes) for _ in range(steps)]
    return [[g.view_as(p) for g, p in zip(step, parameters, strict=True)] for step in flat]


def test_hidden_layers_matrices_are_updated_as_by_torchs_muon() -> None:
    ours, theirs = lenet5.build(0, 0.0, 1.0), lenet5.build(0, 0.0, 1.0)
    hidden = [theirs.C3.weight, theirs.C5.weight, theirs.F6.weight]
    # torch's takes matrices alone.
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in hidden]
    muon = torch.optim.Muon(
        matrices, lr=CONFIG.lr, weight_decay=CONFIG.weight_decay, momentum=CONFIG.beta1,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    for step in gradients(theirs):
        by_name = dict(zip(dict(theirs.named_parameters()), step, strict=True))
        for matrix, name in zip(matrices, ("C3", "C5", "F6"), strict=True):
            matrix.grad = by_name[f"{name}.weight"].flatten(1)
        muon.step()
    trained(ours)
    for before, mine, other in zip(hidden, (ours.C3, ours.C5, ours.F6), matrices, strict=True):
        way = mine.weight.detach().flatten(1) - before.detach().flatten(1)
        difference = mine.weight.detach().flatten(1) - other.detach()
        assert difference.norm() < 0.02 * way.norm(), "torch's iterations are in bfloat16"


def test_all_else_is_updated_as_by_adamw() -> None:
    ours, theirs = lenet5.build(0, 0.0, 1.0), lenet5.build(0, 0.0, 1.0)
    adamw = torch.optim.AdamW(
        theirs.parameters(), lr=CONFIG.lr, weight_decay=CONFIG.weight_decay,
        betas=(CONFIG.beta1, CONFIG.beta2), fused=True,
    )  # fmt: skip
    for step in gradients(theirs):
        for parameter, gradient in zip(theirs.parameters(), step, strict=True):
            parameter.grad = gradient
        adamw.step()
    trained(ours)
    hidden = ("C3.weight", "C5.weight", "F6.weight")
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs.get_parameter(name)) == (name not in hidden), name


def test_a_step_that_a_gradient_scaler_skips_changes_nothing() -> None:
    model = lenet5.build(0, 0.0, 1.0)
    trained_by, weights = trained(model)
    muon: Any = trained_by
    before = weights.detach().clone()
    weights.grad = torch.full_like(weights, torch.inf)
    muon.grad_scale, muon.found_inf = None, torch.tensor(1.0)
    muon.step()
    assert torch.equal(weights.detach(), before)
