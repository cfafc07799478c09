"""Each process's seconds are in ranks.jsonl, and a slow one is named while the run goes on."""

from __future__ import annotations

import dataclasses
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
from lenet_dist.report.curves import waits_of
from lenet_dist.run_dir import reader
from lenet_dist.system import Place
from lenet_dist.track import rank_times
from lenet_dist.train.stragglers import LINES_IN_A_ROW, Stragglers
from tests.outcome import outcome, read_lines, result
from tests.processes import Job, Jobs

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
    first = jobs.start("train.max_steps=60", world_size=2)
    first.until_step(35)
    for rank in first.ranks:
        rank.send(9)
    first.wait()
    again = jobs.run(world_size=3)
    assert outcome(again.directory) == outcome(uninterrupted.directory)
    lines = ranks_of(again.directory)
    assert [line["step"] for line in lines] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    worlds = [len(line["computed"]) for line in lines]
    assert worlds == sorted(worlds) and worlds[-1] == 3
    html = page.of_run(reader.read(again.directory))
    assert "Waited for other ranks" in html
    host = socket.gethostname()
    assert all(f'<th scope="row">{rank}</th><td>{host}</td>' in html for rank in range(3))


def with_ranks(run: reader.Run, computed: list[float]) -> reader.Run:
    """The run as if on as many ranks, which computed for these seconds in its only train line."""
    places = [Place(rank, f"n{rank}", "cpu") for rank in range(len(computed))]
    line = reader.RanksLine(step=100, steps=50, computed=computed, waited=[0.5] * len(computed))
    start = reader.Start(step=0, world_size=len(computed), time="", wandb_id="", places=places)
    return dataclasses.replace(run, ranks=[line], starts=[start])


def test_of_many_ranks_the_page_shows_the_slowest_and_the_spread(uninterrupted: Job) -> None:
    run = reader.read(uninterrupted.directory)
    assert waits_of(run) is None, "a process alone waits for nobody"
    few = waits_of(with_ranks(run, [1.0, 2.0, 1.5]))
    assert few is not None
    assert [(time.place.rank, time.computed_ms) for time in few.ranks] == [
        (0, 20),
        (1, 40),
        (2, 30),
    ]
    assert [time.waited_share for time in few.ranks] == pytest.approx([1 / 3, 0.2, 0.25])
    assert [curve.label for curve in few.plots[0].curves] == ["rank 0", "rank 1", "rank 2"]
    assert [list(curve.y) for curve in few.plots[1].curves] == [[10], [10], [10]]

    many = waits_of(with_ranks(run, [1.0 + rank / 10 for rank in range(20)]))
    assert many is not None and many.left_out == 4
    assert [time.place.rank for time in many.ranks] == list(range(19, 3, -1))
    curves = {curve.label: curve.y[0] for curve in many.plots[0].curves}
    assert curves == pytest.approx(
        {"longest of all": 58, "median of all": 39, "shortest of all": 20}
    )


def test_trackers_are_told_the_ranks_of_a_train_line_in_milliseconds_a_step() -> None:
    train, test = {"kind": "train", "step": 50}, {"kind": "test", "step": 50}
    of_ranks = {"step": 50, "steps": 50, "computed": [1.0, 2.0, 1.5], "waited": [1.0, 0.0, 0.5]}
    joined, other, unknown = rank_times.with_ranks([train, test, train | {"step": 60}], [of_ranks])
    told = rank_times.numbers(joined)
    assert told["ranks/slowest"] == 1 and told["ranks/computed_ms/slowest"] == 40
    assert told["ranks/computed_ms/median"] == 30 and told["ranks/waited_ms/median"] == 10
    assert [told[f"ranks/computed_ms/rank_{rank}"] for rank in range(3)] == [20, 40, 30]
    assert [told[f"ranks/waited_ms/rank_{rank}"] for rank in range(3)] == [20, 0, 10]
    assert rank_times.numbers(other) == rank_times.numbers(unknown) == {}
    many = of_ranks | {"computed": [1.0] * 17, "waited": [0.0] * 17}
    assert len(rank_times.numbers(train | {"ranks": many})) == 4


@pytest.fixture
def busy_core() -> Iterator[int]:
    """The number of a core on which three busy loops run."""
    core = max(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(3)]
    yield core
    for one in loops:
        one.kill()
        one.wait()


@pytest.mark.alone
def test_a_rank_beside_busy_loops_is_named_while_the_run_goes_on(
    jobs: Jobs, busy_core: int
) -> None:
    # By torch a step takes longer than the scheduler's slices of time, so its core's loops tell.
    how = (
        "compute.kernels=torch", "train.max_steps=240", "log.every_steps=24",
        "checkpoint.every_steps=0", "evaluate.every_epochs=100",
    )  # fmt: skip
    alone = jobs.run(*how, name="alone")
    free = os.sched_getaffinity(0) - {busy_core}
    if not free:
        pytest.skip("needs a second core")
    job = jobs.start(*how, world_size=3)
    for number, rank in enumerate(job.ranks):
        assert rank.process.pid
        os.sched_setaffinity(rank.process.pid, [busy_core] if number == 1 else free)
    job.expect(0)
    found = re.findall(r"warning: rank (\d) on .* is slow, .* now (\S+) times", job.text())
    assert [rank for rank, _ in found] == ["1"] and float(found[0][1]) > 1.5
    assert outcome(job.directory) == outcome(alone.directory)
    slowest = [max(range(3), key=line["computed"].__getitem__) for line in ranks_of(job.directory)]
    assert slowest.count(1) > len(slowest) / 2
