"""`wandb agent` runs the trials of a sweep: each a run of its own, here and on W&B."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.commands import command, forked, succeeded, user_environment
from tests.outcome import outcome, read_lines, result, world_sizes
from tests.processes import PATIENCE, ROOT, SMALL, TRAIN_STEPS, Jobs, wait_until
from tests.wandb_server import ENTITY, WandbServer
from tests.wandb_sweeps import StoredSweep

pytestmark = [pytest.mark.timed(seconds=100), pytest.mark.usefixtures("home_without_keys")]
SWEEP = ROOT / "configs" / "sweep.yaml"


class Agent:
    """The real `wandb agent` on a sweep that the real `wandb sweep` has made of configs/sweep.yaml,
    with trials that are as small as a test's runs."""

    def __init__(self, server: WandbServer, folder: Path) -> None:
        self.server, self.folder, self.output = server, folder, folder / "agent.log"
        sweep = yaml.safe_load(SWEEP.read_text())
        here = [*SMALL, "wandb.mode=auto", f"run.root={folder}"]
        sweep["command"] = [*sweep["command"][:-1], *here, sweep["command"][-1]]
        file = folder / "sweep.yaml"
        file.write_text(yaml.safe_dump(sweep))
        self.environment = user_environment(server.environment())
        made = succeeded(command("wandb", "sweep", str(file), environment=self.environment))
        run_by = re.search(r"wandb agent (\S+)", made.stderr + made.stdout)
        assert run_by and run_by[1] == f"{ENTITY}/lenet-dist/sweep0", made.stderr
        self.path, self.sweep = run_by[1], server.sweeps["sweep0"]

    def start(self) -> None:
        """Have it run what the sweep gives out, one trial after the other."""
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                ["wandb", "agent", self.path], cwd=ROOT, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run_of(self, trial: str) -> Path:
        """The directory of a trial's run."""
        return self.folder / f"default-sweep0-{trial}"

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(
            condition, self.output.read_text, is_over=lambda: self.process.poll() is not None
        )

    def trainer(self) -> psutil.Process:
        """The trial's main process."""
        (child,) = (
            p
            for p in psutil.Process(self.process.pid).children()
            if "lenet_dist.train" in p.cmdline()
        )
        return child

    def end(self) -> None:
        """Wait until it has been told that there is nothing more to do."""
        assert self.process.wait(PATIENCE) == 0, self.output.read_text()


@pytest.fixture
def agent(server: WandbServer, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(server, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()


def test_an_agent_runs_each_trial_as_a_run_of_its_own_under_the_id_that_the_sweep_gave(
    agent: Agent, server: WandbServer, jobs: Jobs
) -> None:
    agent.sweep.add("first", {"optimizer.lr": 0.002, "augment.rotate": 5.0})
    agent.sweep.add("second", {"optimizer.lr": 1e-05, "optimizer.weight_decay": 0.05})
    agent.start()
    agent.end()
    assert server.runs.keys() == {"first", "second"} and not server.unknown
    for trial, lr in (("first", 0.002), ("second", 1e-05)):
        run, seen = agent.run_of(trial), server.runs[trial]
        assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["lr"] == lr
        assert seen.steps("train") == TRAIN_STEPS and seen.exit_codes == [0]
        fields = {"sweep": "sweep0", "displayName": run.name, "project": "lenet-dist"}
        assert fields.items() <= seen.fields.items()
        # A sweep looks for its values in the config by its own names, and for its metric in the
        # summary.
        config = {name: entry["value"] for name, entry in seen.config.items()}
        assert config["optimizer.lr"] == config["optimizer"]["lr"] == lr
        metric = yaml.safe_load(agent.sweep.config)["metric"]["name"]
        assert seen.summary[metric] == result(run)["validation"]["accuracy"]
        assert {trial: True} in agent.sweep.heartbeats
    alone = jobs.run("--config", "configs/default.yaml", "optimizer.lr=0.002", "augment.rotate=5")
    assert outcome(agent.run_of("first")) == outcome(alone.directory)


def test_a_trial_stopped_and_then_killed_is_one_run(agent: Agent, server: WandbServer) -> None:
    values = {"log.every_steps": 1, "train.max_steps": 400}
    agent.sweep.add("first", values)
    agent.start()
    run = agent.run_of("first")
    for starts, number in enumerate((signal.SIGTERM, signal.SIGKILL), start=1):
        agent.until(lambda starts=starts: len(world_sizes(run)) == starts)
        before = read_lines(run)
        agent.until(lambda before=before: len(read_lines(run)) > len(before) + 20)
        trainer = agent.trainer()
        trainer.suspend()  # W&B may take longer to begin than the rest of the steps.
        agent.until(lambda starts=starts: server.asked.count("RunResumeStatus") >= starts)
        trainer.send_signal(number)
        trainer.resume()
    agent.sweep.add("first", values)  # W&B gives out again only what said that it was preempted.
    agent.end()
    seen = server.runs["first"]
    assert list(server.runs) == ["first"] and not server.unknown
    assert world_sizes(run) == [1, 1, 1] and result(run)["resumes"] == 2
    assert seen.steps("train") == list(range(1, 401))
    assert [row["_step"] for row in seen.history] == list(range(len(seen.history)))
    assert seen.fields["sweep"] == "sweep0" and seen.exit_codes[-1] == 0
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [start["wandb_id"] for start in starts] == ["first"] * 3


def test_both_processes_of_a_trial_agree_where_it_is(jobs: Jobs, server: WandbServer) -> None:
    where = {"WANDB_ENTITY": ENTITY, "WANDB_PROJECT": "elsewhere"}
    trial = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "t1", **where} | server.environment()
    server.sweeps["s1"] = StoredSweep("")
    job = jobs.start("wandb.mode=online", name="lr", world_size=2, environment=trial).expect(0)
    assert not job.directory.exists()
    run = jobs.folder / "lr-s1-t1"
    assert result(run)["world_size"] == 2
    # The config that it leaves names it wholly, so that it resumes without an agent too.
    left = yaml.safe_load((run / "config.yaml").read_text())
    assert left["run"]["name"] == run.name and left["wandb"]["entity"] == ENTITY
    again = forked("lenet_dist.train", "--config", str(run / "config.yaml"))
    assert again.returncode == 0 and f"{run} is complete" in again.stdout
    fields = {"sweep": "s1", "entity": ENTITY, "project": "elsewhere"}
    assert list(server.runs) == ["t1"] and fields.items() <= server.run.fields.items()


def test_a_trial_that_would_not_be_tracked_where_its_sweep_is_is_refused(jobs: Jobs) -> None:
    trial = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "t1"}
    where = {"WANDB_ENTITY": ENTITY, "WANDB_PROJECT": "elsewhere"}
    for key, variable in (("entity", "WANDB_ENTITY=team"), ("project", "WANDB_PROJECT=elsewhere")):
        asked = ("wandb.mode=online", f"wandb.{key}=mine")
        job = jobs.start(*asked, name=key, environment=trial | where).expect(2)
        assert f"{variable} would override the config" in job.text()
        assert list(jobs.folder.glob(f"{key}*")) == [job.main.output]
