"""Pages over runs, as text, and runs that are altered to be shown."""

from __future__ import annotations

import re
import shutil
from functools import cache
from html import unescape
from pathlib import Path

from lenet_dist.report import page
from lenet_dist.run_dir import reader


def text_of(html: str) -> str:
    """What a page says, its tags and style aside, on one line."""
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@cache
def html_of(*directories: Path) -> str:
    """The page over a run, or over several, that no test changes."""
    runs = [reader.read(directory) for directory in directories]
    return page.of_run(runs[0]) if len(runs) == 1 else page.of_runs(runs)


def page_of(*directories: Path) -> str:
    """The text of that page."""
    return text_of(html_of(*directories))


def altered(directory: Path, folder: Path, **contents: str | None) -> Path:
    """A copy of a run, some of its files with another content, or removed."""
    files = {
        "config": "config.yaml", "metrics": "metrics.jsonl", "result": "result.json",
        "starts": "starts.jsonl", "ranks": "ranks.jsonl", "weights": "model.safetensors",
    }  # fmt: skip
    copy = folder / "copy"
    shutil.copytree(directory, copy)
    for name, content in contents.items():
        if content is None:
            (copy / files[name]).unlink()
        else:
            (copy / files[name]).write_text(content)
    return copy
