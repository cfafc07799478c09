"""An elastic job loses and gains launchers, and ends with the bits of one process undisturbed.

The launchers are torchrun's agents, each with a process of the job, as docs/elastic.md starts them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.commands import user_environment
from tests.outcome import checkpoint_steps, has_line, outcome, result, world_sizes
from tests.processes import BIN, PATIENCE, ROOT, SMALL, Job, Jobs, free_port, is_pending, wait_until

pytestmark = pytest.mark.quiet(seconds=125)

STEPS = 300
RUN = (*SMALL, "data.validation=2000", f"train.max_steps={STEPS}", "checkpoint.every_steps=50")


@pytest.fixture(scope="session")
def undisturbed(shared_jobs: Jobs) -> Job:
    return shared_jobs.run(base=RUN, name="undisturbed")


class Agents:
    """The launchers of one elastic job, as on machines of their own, and where they meet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "run"
        self.port = free_port()
        self._started: list[psutil.Popen] = []
        self._start("rendezvous", "-m", "lenet_dist.rendezvous", f"--port={self.port}")
        self.until(lambda: "can meet" in self.text())

    def start(self, *overrides: str) -> psutil.Popen:
        """A launcher with one process; it may come late."""
        conf = "is_host=false,last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=6"
        return self._start(
            f"agent-{len(self._started)}", str(BIN / "torchrun"), "--nnodes=1:4",
            "--nproc-per-node=1", "--max-restarts=20", "--rdzv-backend=c10d",
            f"--rdzv-endpoint=localhost:{self.port}", "--rdzv-id=test", f"--rdzv-conf={conf}",
            "-m", "lenet_dist.train", *RUN, f"run.root={self.folder}", "run.name=run", *overrides,
        )  # fmt: skip

    def _start(self, name: str, *arguments: str) -> psutil.Popen:
        variables = user_environment({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})
        with open(self.folder / f"{name}.log", "w") as log:
            process = psutil.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=variables, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self._started.append(process)
        return process

    def lose(self, agent: psutil.Popen) -> None:
        """What is left of a machine without power: nothing, at once."""
        lost = [*agent.children(recursive=True), agent]
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        agent.wait(10)

    def until_step(self, step: int) -> None:
        self.until(lambda: has_line(self.directory, step))

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.text, every=0.02)

    def until_world_size(self, size: int) -> None:
        """Until the newest start is one with so many processes."""
        self.until(lambda: world_sizes(self.directory)[-1:] == [size])

    def text(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._started:
            if process.is_running():
                self.lose(process)


@contextmanager
def held(agent: psutil.Popen) -> Iterator[list[psutil.Process]]:
    """Its processes of the job stand still."""
    processes = agent.children(recursive=True)
    for process in processes:
        process.suspend()
    yield processes
    for process in processes:
        process.resume()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    with Agents(tmp_path) as agents:
        yield agents


def test_a_machine_that_comes_back_takes_part_again(agents: Agents, undisturbed: Job) -> None:
    staying, lost = agents.start(), agents.start()
    agents.until_world_size(2)
    agents.until_step(100)
    agents.lose(lost)
    agents.until_world_size(1)
    with held(staying) as processes:  # Or it may be done before it is told of the other one.
        again = agents.start()
        agents.until(lambda: any(is_pending(p.pid, signal.SIGTERM) for p in processes))
    agents.until_world_size(2)
    assert (staying.wait(PATIENCE), again.wait(PATIENCE)) == (0, 0), agents.text()
    assert result(agents.directory)["world_size"] == 2
    assert outcome(agents.directory) == outcome(undisturbed.directory)


def test_a_stop_file_ends_an_elastic_job_for_good(agents: Agents) -> None:
    both = [agents.start(), agents.start()]
    agents.until_world_size(2)
    agents.until_step(100)
    (agents.directory / "STOP").touch()
    assert all(agent.wait(PATIENCE) != 0 for agent in both)
    assert world_sizes(agents.directory) == [2], agents.text()
    assert checkpoint_steps(agents.directory)
    assert not (agents.directory / "STOP").exists()


def test_a_wrong_request_is_not_started_again(agents: Agents) -> None:
    agent = agents.start("train.shards=7")
    assert agent.wait(PATIENCE) != 0
    assert world_sizes(agents.directory) == []
    assert agents.text().count("train.batch_size=64 can't be cut into train.shards = 7") == 1


def test_the_main_process_may_be_lost_in_a_checkpoint_and_then_another_and_the_rest_goes_on(
    agents: Agents, undisturbed: Job
) -> None:
    each_step = "checkpoint.every_steps=1"
    both = [agents.start(each_step), agents.start(each_step)]
    agents.until_world_size(2)
    agents.until(lambda: len(checkpoint_steps(agents.directory)) > 1)
    (main,) = (a for a in both for p in a.children() if p.environ().get("RANK") == "0")
    agents.until(lambda: any(agents.directory.glob("checkpoints/.step-*.tmp")))
    agents.lose(main)
    both.remove(main)
    again = agents.start(each_step)
    agents.until_step(100)
    agents.lose(both[0])
    assert again.wait(PATIENCE) == 0, agents.text()
    assert world_sizes(agents.directory)[-1] == 1
    assert outcome(agents.directory) == outcome(undisturbed.directory)
