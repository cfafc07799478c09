"""One direction of imports: a part knows those below it, and nothing above or beside it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import lenet_dist
from lenet_dist.tracking.environment import TRACKERS
from tests.commands import loaded_by

PACKAGE = Path(lenet_dist.__file__).parent
LEVELS = {
    "commands": 7,
    "benchmarking": 6,
    "inspection": 5,
    "training": 4, "reporting": 4, "demonstration": 4,
    "tracking": 3,
    "run": 2, "processes": 2,
    "data": 1, "model": 1, "machine": 1,
    "base": 0, "kernels": 0,
}  # fmt: skip
BASE = {"config", "exits", "files", "plan", "request", "signals"}
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
COMMANDS = {m for m in MODULES if "/" not in m and Path(m).stem not in BASE} - {"__init__.py"}


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


def part_of(path: Path) -> str:
    """The part that a module of lenet_dist belongs to."""
    if len(path.parts) > 1:
        return path.parts[0]
    return "base" if path.stem in BASE else "commands"


def parts_imported(module: str) -> set[str]:
    ours = [name.split(".") for name in imports(module) if name.startswith("lenet_dist.")]
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    return {part_of(Path(n[1]) / "x" if n[1] in folders else Path(n[1])) for n in ours}


def importers(library: str) -> set[str]:
    """The modules that import a library."""
    return {m for m in MODULES if library in {name.split(".")[0] for name in imports(m)}}


def test_every_module_belongs_to_a_part() -> None:
    assert {part_of(Path(module)) for module in MODULES} <= LEVELS.keys()


def test_every_command_has_a_main() -> None:
    for module in MODULES:
        if part_of(Path(module)) == "commands" and module != "__init__.py":
            tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert "main" in functions, f"{module}: a command, or else add it to BASE"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    part = part_of(Path(module))
    others = parts_imported(module) - {part}
    wrong = {other for other in others if LEVELS[other] >= LEVELS[part]}
    assert not wrong, f"{module} is of {part} and must not know {wrong}"


def test_the_walk_sees_what_is_there() -> None:
    assert {"train.py", "config.py", "training/loop.py"} <= set(MODULES)
    assert "lenet_dist.training.start.start" in imports("train.py")
    assert parts_imported("train.py") >= {"base", "processes", "training"}
    assert "training/gradient_choice.py" in importers("accelerate")


def test_only_what_runs_on_several_processes_and_its_benchmark_know_accelerate() -> None:
    parts = {part_of(Path(module)) for module in importers("accelerate")}
    assert parts == {"processes", "training", "inspection", "benchmarking"}


def test_only_one_module_of_tracking_and_one_of_reporting_know_wandb() -> None:
    both = importers("wandb") | importers("wandb_workspaces")
    assert both <= {"tracking/wandb.py", "reporting/wandb_report.py"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_fits_on_a_screen(command: str) -> None:
    """It reads the request, calls one thing and gives the exit code."""
    assert len((PACKAGE / command).read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_only_reporting_knows_what_draws(library: str) -> None:
    assert {part_of(Path(module)) for module in importers(library)} == {"reporting"}


def test_only_reporting_and_the_reader_of_pictures_know_pictures() -> None:
    outside = {m for m in importers("PIL") if part_of(Path(m)) != "reporting"}
    assert outside == {"data/picture.py"}


def test_only_the_hubs_class_and_its_card_know_the_hub() -> None:
    assert importers("huggingface_hub") == {"model/hub.py", "reporting/card.py"}


def test_only_the_trackers_own_process_knows_the_trackers() -> None:
    ours = {f"lenet_dist.tracking.{name}" for name in TRACKERS}
    knowing = {m for m in MODULES if any(n.startswith(tuple(ours)) for n in imports(m))}
    assert knowing == {"tracking/feed.py"}


@pytest.mark.parametrize("module", ["lenet_dist.config", "lenet_dist.train", "lenet_dist.export"])
def test_reading_a_request_does_not_wait_for_torch(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "omegaconf" in loaded
    assert not {"torch", "accelerate", "numpy", "wandb"} & loaded
