"""A recipe's runs with several seeds: trained by scripts/seeds, and read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lenet_dist.run import reader
from lenet_dist.run.reader import Run

_REPOSITORY = Path(__file__).parents[2]


def train(config: Path, seeds: int, root: Path, *arguments: str) -> None:
    """Train those of the seeds 0 to `seeds` - 1 that are not complete, in `root`.

    `arguments`: more of them for scripts/seeds. Raises CalledProcessError if it fails.
    """
    command = [
        sys.executable, "scripts/seeds", str(config), str(seeds), f"run.root={root}",
        f"run.name={config.stem}", "wandb.mode=disabled", *arguments,
    ]  # fmt: skip
    subprocess.run(command, cwd=_REPOSITORY, check=True)


def complete_runs(config: Path, root: Path) -> list[Run]:
    """The complete runs of a config in `root`, in the order of their seeds."""
    files = root.glob(f"{config.stem}-seed-*/result.json")
    return sorted((reader.read(file.parent) for file in files), key=lambda run: run.config.seed)
