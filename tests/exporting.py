"""A model that is exported by the command, as the tests of every format do it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.commands import forked, succeeded

EXPORT = "lenet_dist.export"
COUNTS = (1, 7, 64)


def pixels(count: int) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(count))


def exported(target: Path, form: str, out: Path, *options: str) -> Path:
    done = succeeded(forked(EXPORT, str(target), "--format", form, "--out", str(out), *options))
    assert (done.stdout, done.stderr) == (f"{out}\n", "")
    return out
