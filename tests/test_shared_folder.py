"""A run in a folder that a group shares: the umask alone says who may read and write it."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

import pytest

from tests.commands import command, succeeded
from tests.processes import SMALL
from tests.wandb_server import WandbServer

RIGHTS = {0o002: (0o664, 0o775), 0o077: (0o600, 0o700)}
"""Of files and of folders, by umask."""

pytestmark = [pytest.mark.timed(seconds=30), pytest.mark.usefixtures("home_without_keys")]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, "online"), (0o077, "offline")])
def test_all_of_a_run_has_the_rights_that_the_umask_leaves_and_no_key_is_in_it(
    tmp_path: Path, server: WandbServer, umask: int, mode: str
) -> None:
    root = tmp_path / "new" / "runs"
    tracked = (f"wandb.mode={mode}", "log.trackers=[wandb,tensorboard]")
    asked = (*SMALL, "train.max_steps=12", "log.report=true", f"run.root={root}", *tracked)
    train = shlex.join([sys.executable, "-m", "lenet_dist.train", *asked])
    shell = ("bash", "-c", f"umask {umask:o}; exec {train}")
    succeeded(command(*shell, environment=server.environment()))
    assert bool(server.runs) == (mode == "online")
    found = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    names = {path.name for path in found}
    assert {"model.safetensors", "state.json", "result.json", "report.html", ".lock"} <= names
    assert any(name.startswith("events.out") for name in names)
    wandb = root / "default" / "wandb"
    assert list(wandb.glob("*run-*/*.wandb")) and list(wandb.glob("cache"))
    for path in found:
        expected = RIGHTS[umask][path.is_dir()]
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
        assert path.is_dir() or server.key.encode() not in path.read_bytes(), path
