"""A process that computes other bits than the others is found and named, and no other one is."""

from __future__ import annotations

import itertools
import re
import socket

import pytest
import torch

from lenet_dist.plan import partition
from lenet_dist.system import cpu_name
from lenet_dist.train.audit import audited_ranks
from lenet_dist.train.majority_vote import majority_vote
from tests.altered import STEP, STRIKE, STRIKE_AVERAGE
from tests.outcome import checkpoint_steps, outcome
from tests.processes import BY_TORCH, Job, Jobs

pytestmark = pytest.mark.processes

OFTEN = "compute.audit_every=5"
OTHER_CONVOLUTIONS = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
OTHER_UPDATES = {"ATEN_CPU_CAPABILITY": "default"}
"""What makes torch compute in truth with other instructions, and so with other roundings: the
convolutions alone, or what the optimizer does, too."""


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("shards", [1, 4])
def test_all_pairs_of_processes_meet_and_none_audits_itself(world_size: int, shards: int) -> None:
    by_rank = partition(shards, world_size)
    owners = {rank for rank, own in enumerate(by_rank) if own}
    met = set()
    for number in range(world_size - 1 or 1):
        for rank, owner in enumerate(audited_ranks(by_rank, number)):
            assert owner in owners
            assert rank != owner or owners == {rank}
            met.add((rank, owner))
    everyone = itertools.product(range(world_size), owners)
    assert met == {(rank, owner) for rank, owner in everyone if rank != owner or len(owners) == 1}


def test_the_majority_is_right_and_who_said_something_else_before_is_wrong_too() -> None:
    right, wrong = torch.zeros(4), torch.tensor([0.0, -0.0, 1.0, 0.0])
    three = majority_vote([[right], [wrong], [right]])
    assert (three.wrong, three.is_certain, three.differing, three.size) == ([1], True, 2, 4)
    assert three.largest == 1
    assert majority_vote([[right], [right, wrong, right]]).wrong == [1]
    assert majority_vote([[right], [wrong]]) == majority_vote([[wrong], [right]])
    assert majority_vote([[right], [wrong]]).wrong == [0, 1]
    assert not majority_vote([[right], [wrong]]).is_certain
    assert majority_vote([[right, wrong]]).wrong == [0]


@pytest.mark.parametrize(
    ("reduction", "precision", "world_size"), [("fixed", "no", 5), ("ddp", "bf16", 2)]
)
def test_nothing_is_found_where_nothing_is_wrong_and_no_bit_changes(
    jobs: Jobs, reduction: str, precision: str, world_size: int
) -> None:
    asked = (f"train.reduction={reduction}", f"compute.precision={precision}", "train.max_steps=20")
    audited = jobs.run(OFTEN, *asked, world_size=world_size, name="audited")
    alike = 1 if reduction == "fixed" else world_size  # Fixed has the bits of one process.
    plain = jobs.run("compute.audit_every=0", *asked, world_size=alike, name="plain")
    assert outcome(audited.directory) == outcome(plain.directory)


@pytest.mark.alone  # Beside others' work a rank may be slow in truth.
def test_nothing_is_reported_in_clean_runs_on_2_to_8_processes(jobs: Jobs) -> None:
    for world_size in (2, 3, 5, 8):
        how = (f"seed={world_size}", "log.every_steps=5", "train.max_steps=40")
        clean = jobs.run(OFTEN, *how, world_size=world_size, name=f"clean-{world_size}")
        assert "warning: " not in clean.text()


def test_a_process_that_computes_shards_with_other_kernels_is_named_by_the_others(
    jobs: Jobs, uninterrupted_by_torch: Job
) -> None:
    often = ("compute.audit_every=25", "checkpoint.keep=5", *BY_TORCH)
    job = jobs.start(*often, world_size=4, own_environment={2: OTHER_CONVOLUTIONS}).expect(1)
    name = re.escape(f"rank 2 on {socket.gethostname()} ({cpu_name()})")
    found = re.findall(
        rf"failed: {name} got different bits in shards 8 to (11) of step 25 than most of the 4"
        r" processes: ([\d,]+) of 61,708 values differ, by up to \S+\. Leave that machine out",
        job.text(),
    )
    assert len(found) == 1 and "Traceback" not in job.text(), job.text()
    # Nothing says that those before were computed right.
    assert checkpoint_steps(job.directory) == []
    names = {folder.name for folder in (job.directory / "checkpoints").iterdir()}
    assert names == {"step-00000010.suspect", "step-00000020.suspect"}
    again = jobs.run(*often, world_size=3)
    assert outcome(again.directory) == outcome(uninterrupted_by_torch.directory)


def test_a_process_that_updates_with_other_kernels_is_named_before_a_save(jobs: Jobs) -> None:
    job = jobs.start(world_size=3, own_environment={1: OTHER_UPDATES}).expect(1)
    (said,) = re.findall(r"failed: .*", job.text())
    assert said.startswith("failed: rank 1 on ") and "in the weights after step 10 than" in said
    assert checkpoint_steps(job.directory) == []


def test_of_two_processes_both_are_named(jobs: Jobs) -> None:
    how = (OFTEN, "compute.kernels=torch")
    job = jobs.start(*how, world_size=2, own_environment={1: OTHER_CONVOLUTIONS}).expect(1)
    (said,) = re.findall(r"failed: .*", job.text())
    assert "rank 0 on " in said and "rank 1 on " in said and "no majority" in said


@pytest.mark.parametrize(("reduction", "strike"), [("fixed", STRIKE_AVERAGE), ("ddp", STRIKE)])
def test_a_weight_that_changes_in_one_memory_is_found_before_it_is_saved(
    jobs: Jobs, reduction: str, strike: int
) -> None:
    kept = ("compute.audit_every=1000", "checkpoint.every_steps=20", "train.max_steps=2000")
    how = (*kept, f"train.reduction={reduction}")
    job = jobs.start(*how, world_size=4, module="tests.altered:struck")
    job.until_checkpoint(20)
    job.ranks[1].send(strike)
    job.expect(1)
    found = re.findall(
        r"failed: (rank \d) .* in the weights after step (\d+) than most", job.text()
    )
    assert len(found) == 1 and found[0][0] == "rank 1", job.text()
    assert max(checkpoint_steps(job.directory)) < int(found[0][1])
    trusted = job.directory / "checkpoints" / f"step-{max(checkpoint_steps(job.directory)):08d}"
    assert f"run the same command again: it resumes from {trusted}. " in job.text()


def test_a_sum_that_is_not_finite_once_is_a_machines_fault_and_names_it(jobs: Jobs) -> None:
    job = jobs.start("compute.audit_every=0", world_size=3, module="tests.altered:faulty").expect(1)
    (said,) = set(re.findall(r"failed: .*", job.text()))
    assert said.startswith("failed: rank 1 on ") and f"of step {STEP + 1} than most of" in said


def test_a_loss_that_is_not_finite_again_is_the_recipes(jobs: Jobs) -> None:
    job = jobs.start("optimizer.lr=1e30", world_size=2).expect(1)
    said = "Computed again by another process, it has the same bits: the recipe is the cause"
    assert said in job.text() and "lower optimizer.lr" in job.text()


def test_a_checkpoint_is_trusted_by_the_audits_of_all_starts(jobs: Jobs) -> None:
    how = ("compute.audit_every=20", "compute.kernels=torch", "checkpoint.keep=1")
    jobs.start(*how, world_size=3).stop_at(28)
    wrong = jobs.start(*how, world_size=3, own_environment={1: OTHER_CONVOLUTIONS}).expect(1)
    assert "of step 40 than most of the 3 processes" in wrong.text()
    trusted = wrong.directory / "checkpoints" / "step-00000020"
    assert f"it resumes from {trusted}. " in wrong.text()
    assert checkpoint_steps(wrong.directory) == [20]


def test_audits_are_due_by_time_where_steps_are_slow(jobs: Jobs, uninterrupted: Job) -> None:
    job = jobs.run("compute.audit_every=1000", world_size=2, module="tests.impatient")
    audits = [int(step) for step in re.findall(r"audited step (\d+)", job.main.text())]
    assert len(audits) > 1 and audits == sorted(set(audits))
    assert outcome(job.directory) == outcome(uninterrupted.directory)
