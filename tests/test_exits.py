"""How an outcome becomes an exit code and one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenet_dist import exits
from tests.commands import command, forked, refusal
from tests.outcome import result
from tests.processes import PATIENCE, ROOT, SMALL


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


@pytest.mark.processes
def test_a_port_that_can_not_be_is_refused() -> None:
    assert "--port 99999999: must be" in refusal(forked("lenet_dist.rendezvous", "--port=99999999"))


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [("--print-config",), (*SMALL, "train.max_steps=20")])
def test_a_command_whose_output_nobody_reads_ends_with_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    reader, unread = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "lenet_dist.train", *arguments, f"run.root={tmp_path}"], cwd=ROOT,
        stdout=unread, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    os.close(unread)
    said = "failed: nobody reads the output any more\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.processes
def test_a_command_whose_standard_streams_are_closed_does_its_work(tmp_path: Path) -> None:
    asked = (*SMALL, "train.max_steps=2", f"run.root={tmp_path}", "run.name=run")
    job = " ".join((sys.executable, "-m lenet_dist.train", *asked))
    done = command("bash", "-c", f"{job} wandb.mode=offline <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert result(tmp_path / "run")["steps"] == 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["train", "validation", "test"]


@pytest.mark.processes
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_command_may_lack_either_stream_that_it_prints_to(closed: str) -> None:
    asked = f"{sys.executable} -m lenet_dist.train --print-config {closed}"
    done = command("bash", "-c", asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("optimizer:" in done.stdout) == (closed != ">&-")


@pytest.mark.processes
def test_a_name_that_the_terminals_encoding_lacks_is_printed_as_far_as_it_goes() -> None:
    ascii_alone = {"PYTHONIOENCODING": "ascii"}
    asked = ("lenet_dist.train", "--print-config", "run.name=größe")
    done = command("python", "-m", *asked, environment=ascii_alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe" in done.stdout


@pytest.mark.processes
def test_ctrl_c_ends_a_command_without_a_word() -> None:
    # In the background of a shell, where tests may run, it is ignored.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    interrupted = "exits.run(lambda _: signal.raise_signal(signal.SIGINT))"
    imports = "import signal; from lenet_dist import exits"
    done = command("python", "-c", f"{imports}; {heard}; {interrupted}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
