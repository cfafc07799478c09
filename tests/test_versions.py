"""The commit that a run records is that of the code that ran."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lenet_dist import system


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, as if this package were there."""
    root = tmp_path / "checkout"
    commit(root)
    monkeypatch.setattr(system, "__file__", str(root / "lenet_dist" / "system.py"))
    return root


def commit(root: Path) -> str:
    identity = ("-c", "user.name=x", "-c", f"user.email={root.name}@x")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    asked = ["git", "-C", root, *identity, "commit", "--quiet", "--allow-empty", "-m", root.name]
    subprocess.run(asked, check=True)
    return head(root)


def head(root: Path) -> str:
    shown = ["git", "-C", root, "rev-parse", "HEAD"]
    return subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip()


def test_variables_that_name_another_repository_are_not_followed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, other = head(checkout), commit(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    assert system.git_commit() == expected != other


def test_a_checkout_of_another_owner_has_its_commit(checkout: Path) -> None:
    if os.getuid():
        pytest.skip("needs root, to give files away")
    expected = head(checkout)
    for path in (checkout, *checkout.rglob("*")):
        shutil.chown(path, 12345)
    assert system.git_commit() == expected
