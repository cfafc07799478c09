"""One job a run directory: the kernel's lock counts, not the file that it is on."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lenet_dist.exits import RequestError
from lenet_dist.run_dir import lock
from tests.refusing import refuse

HOLD = """
import sys
from pathlib import Path
from lenet_dist.run_dir import lock
lock.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.fixture
def owner(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed, or its stdin is closed."""
    pipe = subprocess.PIPE
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=pipe, stdout=pipe, text=True
    )
    with holding:
        assert holding.stdout is not None and holding.stdout.readline() == "held\n"
        yield holding
        holding.kill()


def refusal(path: Path) -> str:
    with pytest.raises(RequestError) as refused:
        lock.hold(path)
    return str(refused.value)


def test_a_second_process_is_refused_with_the_owners_pid(
    path: Path, owner: subprocess.Popen[str]
) -> None:
    message = refusal(path)
    assert f'"pid": {owner.pid}' in message
    assert str(path.parent) in message
    assert "\n" not in message


def test_a_lock_whose_owner_was_killed_is_taken_over(
    path: Path, owner: subprocess.Popen[str]
) -> None:
    owner.kill()
    owner.wait(10)
    assert json.loads(path.read_text())["pid"] == owner.pid
    lock.hold(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_owners_slurm_job_is_named_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    lock.hold(path)
    assert '"slurm_job": "4711"' in refusal(path)


def _hold_without_locks(path: str, number: int) -> None:
    refuse("flock", number)
    try:
        lock.hold(Path(path))
    except RequestError as error:
        Path(path).write_text(str(error))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_as_that(path: Path, number: int) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_hold_without_locks, args=(str(path), number)
    )
    process.start()
    process.join(60)
    said = f"{path}: the file system has no locks (flock: {os.strerror(number)})"
    assert path.read_text().startswith(said)
