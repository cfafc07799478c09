"""README and docs name commands, options, keys, files and headings that are there."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from lenet_dist.request import load
from tests.processes import ROOT

PAGES = sorted([
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "slurm").glob("*.md")
])  # fmt: skip
STARTS = ("accelerate ", "python ", "torchrun ", "srun ", "sbatch ", "make ", "scripts/", ".venv/")
TAKES_KEYS = {"train", "preflight", "evaluate", "track", "requeue"}


def commands_of(page: Path) -> list[str]:
    """The commands in a page's code blocks, each on one line, without comments and ellipses."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4}|\t)(.*)$", text, re.MULTILINE)
    blocks += [
        line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]  # fmt: skip
    lines = [re.sub(r"\[[^\]]*\]|\s#.*|\.\.\.", " ", line).strip() for line in blocks]
    return [line for line in lines if line.startswith(STARTS)]


COMMANDS = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command[:60]}")
    for page in PAGES
    for command in dict.fromkeys(commands_of(page))
]


@cache
def help_of(module: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    return shown.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_the_docs_names_what_is_there(command: str) -> None:
    words = shlex.split(command)
    for option, word in zip(["", *words], words, strict=False):
        is_output = option in ("--out", "--json")
        if re.match(r"(scripts|slurm|configs|docs|tests)/", word) and "*" not in word:
            assert is_output or (ROOT / word).exists(), word
    if words[0] == "make":
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in words[1:])
    module = next((word for word in words if word.startswith("lenet_dist.")), None)
    script = next((word for word in words if word.endswith(("your_own.py", ".sh"))), None)
    if module is None and script is None:
        return
    module = module or "lenet_dist.train"
    own = words[words.index(module if module in words else str(script)) + 1 :]
    for option in (word for word in own if word.startswith("--")):
        assert option in help_of(module), f"{module} has no {option}"
    if module.removeprefix("lenet_dist.") in TAKES_KEYS:
        load(None, [word for word in own if re.match(r"[a-z_.]+=", word)])


def test_the_walk_sees_the_commands_that_every_reader_needs() -> None:
    found = {str(param.values[0]) for param in COMMANDS}
    assert {"make train", "make test", "sbatch slurm/train.sh"} <= found
    assert any(command.startswith("accelerate launch -m lenet_dist.train") for command in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_in_the_docs_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    for target, heading in links:
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in anchors, f"{page.name} links to {target}#{heading}"
