"""One job a run directory: the kernel's lock counts, not the file that it is on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lenet_dist.exits import RequestError
from lenet_dist.run_dir import lock
from tests.processes import PATIENCE, fork
from tests.refusing import refuse


def test_a_second_owner_is_refused_naming_the_first_and_its_slurm_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    lock.hold(path)
    with pytest.raises(RequestError) as refused:
        lock.hold(path)
    message = str(refused.value)
    assert f'"pid": {os.getpid()}' in message and '"slurm_job": "4711"' in message
    assert str(path.parent) in message and "\n" not in message


def _hold_without_locks(path: str, number: int) -> None:
    refuse("flock", number)
    try:
        lock.hold(Path(path))
    except RequestError as error:
        Path(path).write_text(str(error))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_as_that(tmp_path: Path, number: int) -> None:
    path = tmp_path / ".lock"
    fork(_hold_without_locks, str(path), number).join(PATIENCE)
    said = f"{path}: the file system has no locks (flock: {os.strerror(number)})"
    assert path.read_text().startswith(said)
