"""A run's model as a folder for the Hugging Face hub, with a card of what was measured."""

from __future__ import annotations

from pathlib import Path

from lenet_dist.exits import RequestError
from lenet_dist.files import check_folder_can_be_written
from lenet_dist.model import formats, weights
from lenet_dist.report import card
from lenet_dist.run_dir import reader


def check(out: Path) -> None:
    """Raise RequestError if the folder can't be written, or holds anything but such an export."""
    check_folder_can_be_written("--out", out)
    if out.is_dir() and any(out.iterdir()) and not _was_exported(out):
        raise RequestError(
            f"--out {out}: holds something else, not just an earlier export;"
            " name a folder that is empty or does not exist yet"
        )


def content(target: Path, weights_file: Path) -> dict[str, bytes]:
    """The folder's files, by name, for the weights of a run or of a file."""
    model = weights.read(weights_file)
    run = reader.read(target) if target.is_dir() else None
    return formats.hub(model, weights_file.read_bytes(), card.text(model, run))


def _was_exported(folder: Path) -> bool:
    """Whether it holds what this command writes, and nothing else."""
    if {path.name for path in folder.iterdir()} != formats.HUB_FILES:
        return False
    return card.is_ours((folder / formats.CARD).read_text(encoding="utf-8", errors="replace"))
