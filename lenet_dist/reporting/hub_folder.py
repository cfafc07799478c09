"""A run's model as a folder for the Hugging Face hub, with a card of what was measured."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lenet_dist.exits import RequestError
from lenet_dist.files import check_folder_can_be_written
from lenet_dist.model import formats, weights
from lenet_dist.reporting import card
from lenet_dist.run import reader
from lenet_dist.run.reader import Run


def check(out: Path) -> None:
    """Raise RequestError if the folder can't be written, or holds anything but such an export."""
    check_folder_can_be_written("--out", out)
    if out.is_dir() and any(out.iterdir()) and not _was_exported(out):
        raise RequestError(
            f"--out {out}: holds something else, not just an earlier export;"
            " name a folder that is empty or does not exist yet"
        )


def content(target: Path, weights_file: Path) -> dict[str, bytes]:
    """The folder's files, by name, for the weights of a run or of a file.

    Raises RequestError if a run's weights are not those that it was measured with.
    """
    model, stored = weights.read(weights_file), weights_file.read_bytes()
    run = _measured(target, stored) if target.is_dir() else None
    return formats.hub(model, stored, card.text(model, run))


def _was_exported(folder: Path) -> bool:
    """Whether it holds what this command writes, and nothing else."""
    if {path.name for path in folder.iterdir()} != formats.HUB_FILES:
        return False
    return card.is_ours((folder / formats.CARD).read_text(encoding="utf-8", errors="replace"))


def _measured(target: Path, content: bytes) -> Run:
    """The run, if its result is that of these weights: a card must not report on others."""
    found = reader.read(target)
    if found.result and found.result.weights_sha256 != hashlib.sha256(content).hexdigest():
        raise RequestError(
            f"{target / 'model.safetensors'}: not the weights that result.json was measured with;"
            " give the file instead of the run to export it without that result"
        )
    return found
