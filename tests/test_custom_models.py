"""A team's own model keeps the promises: the same bits on any number of processes and over a stop,
whatever it is made of."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from tests.outcome import outcome, read_lines, result
from tests.processes import Job, Jobs
from tests.tasks import TASKS

pytestmark = pytest.mark.processes

SHORT = ("train.max_steps=24", "train.shards=8", "compute.audit_every=6")


@pytest.fixture(scope="module", params=sorted(TASKS))
def alone(request: pytest.FixtureRequest, shared_jobs: Jobs) -> Job:
    """Each task on one process, from start to end; the run's name is the task's."""
    return start(shared_jobs, request.param, name=request.param).expect(0)


def start(jobs: Jobs, task: str, *overrides: str, world_size: int = 1, name: str = "run") -> Job:
    return jobs.start(
        *SHORT, *overrides, module="tests.tasks", environment={"TASK": task},
        world_size=world_size, name=name,
    )  # fmt: skip


def test_five_processes_or_three_and_then_two_have_the_bits_of_one(jobs: Jobs, alone: Job) -> None:
    task = alone.directory.name
    five = start(jobs, task, world_size=5, name="five").expect(0)
    start(jobs, task, world_size=3).stop_at(7)
    two = start(jobs, task, world_size=2).expect(0)
    assert outcome(five.directory) == outcome(two.directory) == outcome(alone.directory)


def test_what_it_consists_of_is_trained_as_told_evaluated_and_saved(alone: Job) -> None:
    task = TASKS[alone.directory.name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = task.model(None)  # type: ignore[arg-type]
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = safetensors.torch.load_file(alone.directory / "model.safetensors")
    model.load_state_dict(saved)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name in first.keys() - {"again.weight", "again.bias"}:
        assert torch.equal(saved[name], first[name]) == (name not in trained), name
    if alone.directory.name == "partly":
        assert torch.equal(saved["again.weight"], saved["head.weight"])
    assert result(alone.directory)["parameters"] == sum(p.numel() for p in model.parameters())
    losses = [line["loss"] for line in read_lines(alone.directory) if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_random_numbers_are_drawn_by_shard_one_after_the_other(jobs: Jobs) -> None:
    said = start(jobs, "dropout").expect(0).text()
    assert "shards are computed one by one" in said
    refused = start(jobs, "dropout", "train.shards_at_once=4", name="many").expect(2)
    assert "train.shards_at_once=4: the model draws random numbers" in refused.text()
    other = start(jobs, "dropout", "seed=1", name="other").expect(0)
    assert outcome(other.directory) != outcome(jobs.folder / "run")


def test_from_two_on_any_number_at_once_has_the_same_bits_and_one_has_others(jobs: Jobs) -> None:
    found = {}
    for at_once, size in ((1, 1), (1, 3), (2, 1), (8, 3)):
        how = {"name": f"{at_once}-on-{size}", "world_size": size}
        job = start(jobs, "transformer", f"train.shards_at_once={at_once}", **how).expect(0)
        found[at_once, size] = outcome(job.directory)
    assert found[1, 1] == found[1, 3] != found[2, 1] == found[8, 3]


def test_a_resume_may_compute_fewer_at_once_but_not_one_by_one(jobs: Jobs) -> None:
    job = start(jobs, "transformer").stop_at(7)
    refused = start(jobs, "transformer", "train.shards_at_once=1").expect(2)
    assert "train.shards_at_once: 32 -> 1" in refused.text()
    start(jobs, "transformer", "train.shards_at_once=2").expect(0)
    assert result(job.directory)["bit_exact"]
