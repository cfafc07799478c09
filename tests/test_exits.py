"""How an outcome becomes an exit code and one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.commands import command, forked, refusal
from tests.outcome import result
from tests.processes import PATIENCE, ROOT, SMALL

pytestmark = pytest.mark.processes


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
def test_every_command_names_a_path_it_can_not_use(module: str, arguments: tuple[str, ...]) -> None:
    path = "/tmp/" + 300 * "x"
    done = forked(f"lenet_dist.{module}", *(argument.format(path) for argument in arguments))
    assert path in refusal(done)


def test_a_run_root_that_can_not_be_read_is_named_with_its_key() -> None:
    root = "/tmp/" + 300 * "x"
    said = refusal(forked("lenet_dist.train", *SMALL, f"run.root={root}"))
    assert said.startswith(f"error: run.root={root}: can't read there: ")


def printing_to(output: int | IO[bytes], *arguments: str) -> tuple[int, str]:
    """The exit code and the stderr of `lenet_dist.train` that prints there."""
    done = subprocess.run(
        [sys.executable, "-m", "lenet_dist.train", *arguments], cwd=ROOT, stdout=output,
        stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture(
    params=["stdout was closed (broken pipe)", "can't write to stdout: No space left on device"]
)
def lost_output(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """A pipe that nobody reads, or a full device, and why it can't be written."""
    if "pipe" in request.param:
        reader, output = os.pipe()
        os.close(reader)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    yield output, request.param
    os.close(output)


@pytest.mark.parametrize("asked", ["--print-config", "--help"])
def test_an_answer_that_can_not_be_printed_is_a_failure_in_one_line(
    lost_output: tuple[int, str], asked: str
) -> None:
    output, reason = lost_output
    assert printing_to(output, asked) == (1, f"failed: {reason}\n")


def test_training_goes_on_though_what_it_prints_is_lost(
    lost_output: tuple[int, str], tmp_path: Path
) -> None:
    output, reason = lost_output
    asked = (*SMALL, "train.max_steps=20", f"run.root={tmp_path}", "run.name=run")
    assert printing_to(output, *asked) == (0, f"warning: {reason}; the job goes on\n")
    assert result(tmp_path / "run")["steps"] == 20


def test_a_command_whose_standard_streams_are_closed_does_its_work(tmp_path: Path) -> None:
    asked = (*SMALL, "train.max_steps=2", f"run.root={tmp_path}", "run.name=run")
    job = " ".join((sys.executable, "-m lenet_dist.train", *asked))
    done = command("bash", "-c", f"{job} wandb.mode=offline <&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert result(tmp_path / "run")["steps"] == 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["train", "validation", "test"]


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_command_may_lack_either_stream_that_it_prints_to(closed: str) -> None:
    asked = f"{sys.executable} -m lenet_dist.train --print-config {closed}"
    done = command("bash", "-c", asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("optimizer:" in done.stdout) == (closed != ">&-")


def test_ctrl_c_ends_a_command_without_a_word() -> None:
    interrupted = "exits.run(lambda _: signal.raise_signal(signal.SIGINT))"
    imports = "import signal; from lenet_dist import exits"
    done = command("python", "-c", f"{imports}; {interrupted}")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_name_that_the_terminals_encoding_lacks_is_printed_as_far_as_it_goes() -> None:
    ascii_alone = {"PYTHONIOENCODING": "ascii"}
    asked = ("lenet_dist.train", "--print-config", "run.name=größe")
    done = command("python", "-m", *asked, environment=ascii_alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe" in done.stdout


def test_training_goes_on_where_not_even_a_warning_can_be_printed(tmp_path: Path) -> None:
    asked = " ".join((*SMALL, "train.max_steps=2", f"run.root={tmp_path}", "run.name=run"))
    job = f"{sys.executable} -m lenet_dist.train {asked} wandb.mode=offline > /dev/full 2>&1"
    assert command("bash", "-c", job).returncode == 0
    assert result(tmp_path / "run")["steps"] == 2
