"""What a process may use of its machine, and which one speaks for its job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lenet_dist import system
from lenet_dist.launchers import is_main_process
from tests.commands import command

OF_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "max 100000"}, OF_CPUS),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "99900000 100000"}, OF_CPUS),
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/host/only", {"cpu.max": "100000 100000"}, 1),
        ("3:cpuset:/\n2:cpu,cpuacct:/x\n0::/", {"cpu/x/cpu.cfs_quota_us": "100000",
         "cpu/x/cpu.cfs_period_us": "100000"}, 1),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, OF_CPUS),
        ("", {}, OF_CPUS),
    ],
)  # fmt: skip
def test_a_quota_of_cpu_time_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(groups)
    monkeypatch.setattr(system, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(system, "_CGROUPS", tmp_path / "fs")
    assert system.cores() == cores


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, False),
        ({"RANK": "1"}, True),
        ({"RANK": "", "WORLD_SIZE": "1"}, True),
    ],
)
def test_one_process_speaks_for_a_job(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], speaks: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is speaks


COUNT = """
import os, sys
from lenet_dist import exits
def main(arguments):
    import torch
    print(len(os.sched_getaffinity(0)))
exits.run(main)
"""


@pytest.mark.processes
def test_variables_that_bind_threads_to_cores_do_not_hide_cores() -> None:
    done = command("python", "-c", COUNT, environment={"OMP_PROC_BIND": "true"})
    assert (done.stdout, done.stderr) == (f"{OF_CPUS}\n", "")


@pytest.mark.processes
@pytest.mark.skipif(OF_CPUS == 1, reason="needs a second core")
def test_a_launcher_that_was_bound_to_one_core_is_named() -> None:
    # torch, imported first, does here what it does in a launcher.
    bound = {"OMP_PLACES": "cores"}
    done = command("python", "-c", f"import torch\n{COUNT}", environment=bound)
    said = "this process may use one core only: unset OMP_PLACES=cores before the launcher"
    assert done.stderr == f"warning: {said}\n"
