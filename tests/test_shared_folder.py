"""A run in a folder that a group shares: the umask alone says who may read and write it."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

import pytest

from tests.commands import command
from tests.processes import SMALL
from tests.wandb_server import WandbServer

RIGHTS = {0o002: (0o664, 0o775), 0o077: (0o600, 0o700)}
"""Of files and of folders, by umask."""

pytestmark = [pytest.mark.timed, pytest.mark.usefixtures("home_without_keys")]


def train(root: Path, umask: int, environment: dict[str, str], *overrides: str) -> Path:
    """A run by a user of this umask; gives its directory."""
    asked = (*SMALL, "train.max_steps=12", "log.report=true", f"run.root={root}", *overrides)
    arguments = [sys.executable, "-m", "lenet_dist.train", *asked]
    shell = f"umask {umask:o}; exec {shlex.join(arguments)}"
    done = command("bash", "-c", shell, environment=environment)
    assert done.returncode == 0, done.stderr
    return root / "default"


@pytest.mark.parametrize(("umask", "mode"), [(0o002, "online"), (0o077, "offline")])
def test_all_of_a_run_has_the_rights_that_the_umask_leaves_and_no_key_is_in_it(
    tmp_path: Path, server: WandbServer, umask: int, mode: str
) -> None:
    root = tmp_path / "new" / "runs"
    trackers = (f"wandb.mode={mode}", "log.trackers=[wandb,tensorboard]")
    run = train(root, umask, server.environment(), *trackers)
    assert bool(server.runs) == (mode == "online")
    found = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    names = {path.name for path in found}
    assert {"model.safetensors", "state.json", "result.json", "report.html", ".lock"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert list(run.glob("wandb/*run-*/*.wandb")) and list(run.glob("wandb/cache"))
    for path in found:
        expected = RIGHTS[umask][path.is_dir()]
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
        assert path.is_dir() or server.key.encode() not in path.read_bytes(), path
