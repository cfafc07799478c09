"""A model that is exported by the command, as the tests of every format do it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lenet_dist.model import lenet5, weights
from lenet_dist.model.lenet5 import LeNet5
from tests.commands import forked

EXPORT = "lenet_dist.export"
COUNTS = (1, 7, 64)


def model_with_scale() -> LeNet5:
    """A model with a mean and a std of its own."""
    return lenet5.build(3, 0.13, 0.31).eval()


def weights_file(model: LeNet5, folder: Path) -> Path:
    """A model's weights file, in a folder."""
    path = folder / "model.safetensors"
    path.write_bytes(weights.to_bytes(dict(model.state_dict()), model.mean, model.std))
    return path


def pixels(count: int) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


def exported(target: Path, form: str, out: Path, *options: str) -> Path:
    done = forked(EXPORT, str(target), "--format", form, "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (f"{out}\n", "")
    return out
