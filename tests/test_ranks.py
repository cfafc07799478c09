"""Each process's seconds are in ranks.jsonl, and a slow one is named while the run goes on."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lenet_dist.report import page
from lenet_dist.run_dir import reader
from lenet_dist.system import Place
from lenet_dist.train.stragglers import LINES_IN_A_ROW, Stragglers
from tests.outcome import outcome, read_lines, result
from tests.processes import TRAIN_STEPS, Job, Jobs

pytestmark = pytest.mark.processes


def ranks_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "ranks.jsonl").read_text().splitlines()]


def stragglers(*shards: int) -> Stragglers:
    return Stragglers([Place(rank, f"n{rank}", "cpu") for rank in range(len(shards))], shards)


def look(slow: Stragglers, *seconds: float, lines: int = LINES_IN_A_ROW) -> list[str]:
    return [warning for _ in range(lines) for warning in slow.warnings(seconds)]


def test_a_rank_that_is_slow_for_five_lines_is_named_once() -> None:
    slow = stragglers(4, 4, 4, 4)
    assert not look(slow, 1, 1, 1.6, 1, lines=LINES_IN_A_ROW - 1)
    (warning,) = look(slow, 1, 1, 1.6, 1, lines=1)
    assert warning.startswith("rank 2 on n2 (cpu) is slow") and "1.6 times" in warning
    assert not look(slow, 1, 1, 1.6, 1, lines=20)
    assert not look(slow, 1, 1, 1, 1) + look(slow, 1, 1, 1.6, 1), "once is enough"


def test_steps_too_short_for_the_clock_are_no_error() -> None:
    assert not look(stragglers(4, 4, 4), 0, 0, 0)
    (warning,) = look(stragglers(4, 4, 4), 0, 1, 0)
    assert warning.startswith("rank 1 ")


@pytest.mark.parametrize(
    ("shards", "seconds"),
    [
        ((2, 2, 1, 1, 1, 1, 1), (2, 2, 1, 1, 1, 1, 1)),
        ((2, 2, 2, 2, 1), (1.2, 1.2, 1.2, 1.2, 1)),
        ((1, 1, 1, 0), (1, 1, 1, 9)),
        ((16,), (1,)),
        ((4, 4, 4), (9, 9, 9)),
    ],
)
def test_more_work_is_not_slowness(shards: tuple[int, ...], seconds: tuple[float, ...]) -> None:
    assert not look(stragglers(*shards), *seconds, lines=50)


@pytest.mark.parametrize(("world_size", "reduction"), [(1, "fixed"), (3, "fixed"), (2, "ddp")])
def test_each_train_line_has_the_seconds_of_every_process(
    jobs: Jobs, world_size: int, reduction: str
) -> None:
    job = jobs.run(f"train.reduction={reduction}", world_size=world_size)
    lines = ranks_of(job.directory)
    train = [line["step"] for line in read_lines(job.directory) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == train
    assert sum(line["steps"] for line in lines) == 60
    in_training = result(job.directory)["seconds"]["train"]
    for rank in range(world_size):
        computed = [line["computed"][rank] for line in lines]
        waited = [line["waited"][rank] for line in lines]
        assert min(computed) > 0 and min(waited) >= 0 and sum(computed + waited) < in_training
        assert (min(waited) > 0) == (world_size > 1)


def test_a_run_that_goes_on_has_each_line_once(jobs: Jobs, uninterrupted: Job) -> None:
    jobs.start(world_size=2).kill_at(35)
    again = jobs.run(world_size=3)
    assert outcome(again.directory) == outcome(uninterrupted.directory)
    lines = ranks_of(again.directory)
    assert [line["step"] for line in lines] == TRAIN_STEPS
    worlds = [len(line["computed"]) for line in lines]
    assert worlds == sorted(worlds) and worlds[-1] == 3
    html = page.of_run(reader.read(again.directory))
    assert "Waited for other ranks" in html
    host = socket.gethostname()
    assert all(f'<th scope="row">{rank}</th><td>{host}</td>' in html for rank in range(3))


@pytest.fixture
def busy_core() -> Iterator[int]:
    """The number of a core on which busy loops run."""
    core = max(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(4)]
    yield core
    for one in loops:
        one.kill()
        one.wait()


@pytest.mark.alone
def test_a_rank_beside_busy_loops_is_named_while_the_run_is_on(jobs: Jobs, busy_core: int) -> None:
    # By torch a step takes longer than the scheduler's slices of time, so its core's loops tell.
    how = (
        "compute.kernels=torch", "train.shards=8", "train.max_steps=240", "log.every_steps=24",
        "checkpoint.every_steps=0", "evaluate.every_epochs=100",
    )  # fmt: skip
    alone = jobs.run(*how, name="alone")
    free = os.sched_getaffinity(0) - {busy_core}
    if not free:
        pytest.skip("needs a second core")
    # Two ranks: on two cores, the one that is not slowed has a core to itself.
    job = jobs.start(*how, world_size=2)
    for number, rank in enumerate(job.ranks):
        assert rank.process.pid
        os.sched_setaffinity(rank.process.pid, [busy_core] if number == 1 else free)
    job.expect(0)
    found = re.findall(r"warning: rank (\d) on .* is slow, .* now (\S+) times", job.text())
    assert [rank for rank, _ in found] == ["1"] and float(found[0][1]) >= 1.5
    assert outcome(job.directory) == outcome(alone.directory)
    slowest = [max(range(2), key=line["computed"].__getitem__) for line in ranks_of(job.directory)]
    assert slowest.count(1) > len(slowest) / 2
