"""How an outcome becomes an exit code and one message."""

from __future__ import annotations

import pytest

from lenet_dist import exits
from tests.processes import forked, refusal


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, False),
        ({"RANK": "1"}, True),
        ({"RANK": "", "WORLD_SIZE": "1"}, True),
    ],
)
def test_one_process_speaks_for_a_job(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], speaks: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert exits.is_main_process() is speaks


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("evaluate", ("{}",)),
        ("report", ("{}",)),
        ("predict", ("{}",)),
        ("track", ("{}",)),
        ("export", ("{}", "--format", "onnx", "--out", "x.onnx")),
    ],
)
def test_a_path_that_can_not_be_used_is_named_by_every_command(
    module: str, arguments: tuple[str, ...]
) -> None:
    path = "/tmp/" + 300 * "x"
    done = forked(f"lenet_dist.{module}", *(argument.format(path) for argument in arguments))
    assert path in refusal(done)
