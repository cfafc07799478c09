"""A recipe's runs with several seeds, and the part of a page that is made from them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lenet_dist.run_dir import reader
from lenet_dist.run_dir.reader import Run

ROOT = Path(__file__).resolve().parents[1]


def train(config: Path, seeds: int, root: Path, *arguments: str) -> None:
    """Train those of the seeds 0 to `seeds` - 1 that are not complete, in `root`.

    `arguments`: more of them for scripts/seeds. Raises CalledProcessError if it fails.
    """
    command = [
        sys.executable, "scripts/seeds", str(config), str(seeds), f"run.root={root}",
        f"run.name={config.stem}", "wandb.mode=disabled", *arguments,
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True)


def complete_runs(config: Path, root: Path) -> list[Run]:
    """The complete runs of a config in `root`, in the order of their seeds."""
    files = root.glob(f"{config.stem}-seed-*/result.json")
    return sorted((reader.read(file.parent) for file in files), key=lambda run: run.config.seed)


def between(mark: str) -> re.Pattern[str]:
    """The place of the lines between ``<!-- MARK -->`` and ``<!-- /MARK -->``."""
    return re.compile(rf"(?<=<!-- {mark} -->\n).*(?=\n<!-- /{mark} -->)", re.DOTALL)


def put(page: Path, place: re.Pattern[str], content: str) -> None:
    """Replace what is in a page at a place, of which it must have one."""
    text, count = place.subn(lambda _: content, page.read_text(encoding="utf-8"))
    assert count == 1, f"{page}: {count} places for {place.pattern}"
    page.write_text(text, encoding="utf-8")
