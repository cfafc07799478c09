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


def gradients() -> list[torch.Tensor]:
    """Of some steps, the same each time, in the order of the flat weights."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(lenet5.PARAMETERS, generator=generator) for _ in range(3)]


def trained(model: nn.Module) -> tuple[torch.optim.Optimizer, nn.Parameter]:
    """Muon after these steps on a model, and the flat weights."""
    weights = flatten(list(model.parameters()))
    optimizer = build_optimizer(CONFIG, dict(model.named_parameters()), weights)
    for weights.grad in gradients():
        optimizer.step()
    return optimizer, weights


def by_name(model: nn.Module, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """A gradient, by its parameters' names."""
    named = dict(model.named_parameters())
    parts = gradient.split([p.numel() for p in named.values()])
    return {name: part.view_as(named[name]) for name, part in zip(named, parts, strict=True)}


def test_hidden_layers_matrices_are_updated_as_by_torchs_muon() -> None:
    ours, theirs = lenet5.build(0, 0.0, 1.0), lenet5.build(0, 0.0, 1.0)
    hidden = [theirs.C3.weight, theirs.C5.weight, theirs.F6.weight]
    # torch's takes matrices alone.
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in hidden]
    muon = torch.optim.Muon(
        matrices, lr=CONFIG.lr, weight_decay=CONFIG.weight_decay, momentum=CONFIG.beta1,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    for gradient in gradients():
        named = by_name(theirs, gradient)
        for matrix, name in zip(matrices, ("C3", "C5", "F6"), strict=True):
            matrix.grad = named[f"{name}.weight"].flatten(1)
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
    for gradient in gradients():
        for name, part in by_name(theirs, gradient).items():
            theirs.get_parameter(name).grad = part
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
