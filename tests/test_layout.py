"""One direction of imports: a part knows those below it, and nothing above or beside it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import lenet_dist
from lenet_dist.track.environment import TRACKERS
from tests.commands import loaded_by

PACKAGE = Path(lenet_dist.__file__).parent
LEVELS = {
    "commands": 7,
    "benchmark": 6,
    "preflight": 5,
    "train": 4, "report": 4, "demo": 4,
    "track": 3,
    "run_dir": 2, "distributed": 2,
    "data": 1, "model": 1,
    "base": 0, "kernels": 0,
}  # fmt: skip
BASE = {
    "config", "exits", "files", "launchers", "plan", "request", "signals", "streams", "system",
}  # fmt: skip
ROOMS = {"train", "track", "report", "preflight", "demo", "benchmark"}
"""Commands with more than one file: each a package of that name."""
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@cache
def imports(module: str) -> frozenset[str]:
    """The dotted names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def part_of(module: str) -> str:
    """The part that a module of lenet_dist belongs to. A room's own front is a command."""
    folder, _, name = module.rpartition("/")
    if folder in ROOMS and name in ("__init__.py", "__main__.py"):
        return "commands"
    return folder or ("base" if name.removesuffix(".py") in BASE else "commands")


COMMANDS = sorted({m for m in MODULES if part_of(m) == "commands"} - {"__init__.py"})


def _module_of(name: str) -> str | None:
    """The module of lenet_dist that an imported name is, or is in."""
    first, *rest = name.split(".")
    if first != "lenet_dist" or not rest:
        return None
    for count in range(len(rest), 0, -1):
        stem = "/".join(rest[:count])
        for module in (f"{stem}.py", f"{stem}/__init__.py"):
            if module in MODULES:
                return module
    return None


def importers(library: str) -> set[str]:
    """The modules that import a library."""
    return {m for m in MODULES if library in {name.split(".")[0] for name in imports(m)}}


def test_every_command_has_a_main() -> None:
    for module in COMMANDS:
        if not module.endswith("__main__.py"):
            tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert "main" in functions, f"{module}: a command, or else add it to BASE"
    assert {f"{room}/__main__.py" for room in ROOMS} <= set(COMMANDS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    part = part_of(module)
    others = {part_of(other) for name in imports(module) if (other := _module_of(name))}
    wrong = {other for other in others - {part} if LEVELS[other] >= LEVELS[part]}
    assert not wrong, f"{module} is of {part} and must not know {wrong}"


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py")]
    long = {f.name: n for f in files if (n := len(f.read_text().splitlines())) > 350}
    assert not long


@pytest.mark.parametrize(
    ("library", "knowing"),
    [
        ("accelerate", {"distributed/", "train/", "preflight/", "benchmark/"}),
        ("wandb", {"track/wandb.py", "report/wandb_report.py"}),
        ("wandb_workspaces", {"report/wandb_report.py"}),
        ("matplotlib", {"report/"}),
        ("jinja2", {"report/"}),
        ("PIL", {"report/", "data/picture.py"}),
        ("huggingface_hub", {"model/hub.py", "report/card.py"}),
    ],
)
def test_a_library_is_known_to_these_alone(library: str, knowing: set[str]) -> None:
    found = importers(library)
    assert found and all(module.startswith(tuple(knowing)) for module in found), found


def test_only_the_trackers_own_process_knows_the_trackers() -> None:
    ours = {f"lenet_dist.track.{name}" for name in TRACKERS}
    knowing = {m for m in MODULES if any(n.startswith(tuple(ours)) for n in imports(m))}
    assert knowing == {"track/feed.py"}


@pytest.mark.parametrize("command", ["train", "export", "preflight", "predict"])
def test_reading_a_request_does_not_wait_for_torch(command: str) -> None:
    loaded = loaded_by(f"import lenet_dist.{command}")
    assert not {"torch", "accelerate", "numpy", "wandb"} & loaded
