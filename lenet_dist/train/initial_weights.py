"""The weights that a new run begins with, where they are not those of its seed: `run.from`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from lenet_dist.config import Config, split_source
from lenet_dist.exits import RequestError
from lenet_dist.model import weights
from lenet_dist.run_dir.directory import locate_weights

_NAMED = 4
"""How many of the parameters that do not fit a message names."""


def read_source(config: Config, model: nn.Module) -> dict[str, Tensor]:
    """The weights that `run.from` names, with their SHA-256, for this model, by name.

    Raises RequestError if they are not this model's, naming the parameters that differ, were made
    for pixels of another scale, or have another SHA-256 by now.
    """
    assert config.run.from_
    path, digest = split_source(config.run.from_)
    file, _ = locate_weights(Path(path))
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise RequestError(f"run.from={config.run.from_}: {file} has other weights by now")
    found, scale = weights.tensors(file)
    if misfits := _misfits(found, model.state_dict()):
        more = f" and {len(misfits) - _NAMED} more" if len(misfits) > _NAMED else ""
        raise RequestError(
            f"run.from={path}: not weights of this model: {'; '.join(misfits[:_NAMED])}{more}"
        )
    here = {"mean": config.model.mean, "std": config.model.std}
    if here | scale != here:
        wanted = " ".join(f"model.{name}={value}" for name, value in scale.items())
        raise RequestError(f"run.from={path}: its weights are for {wanted}; ask for that")
    return found


def _misfits(found: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from being a model's, by the names of its parameters."""
    lacking = [f"it lacks {name}" for name in model if name not in found]
    others = [
        f"{name} is {list(found[name].shape)}, here {list(tensor.shape)}"
        for name, tensor in model.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return others + lacking + [f"{name} is not known here" for name in found if name not in model]
