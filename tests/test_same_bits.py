"""The same bits on any number of processes."""

from __future__ import annotations

import hashlib

import pytest

from tests.commands import command
from tests.outcome import outcome, read_lines, result
from tests.processes import BY_TORCH, TRAIN_STEPS, Job, Jobs

pytestmark = pytest.mark.processes

SHORT = "train.max_steps=20"


@pytest.mark.parametrize("world_size", [3, 5, 16])
def test_any_number_of_processes_ends_with_the_bits_of_one(
    jobs: Jobs, uninterrupted: Job, world_size: int
) -> None:
    run = jobs.run(world_size=world_size)
    assert result(run.directory)["world_size"] == world_size
    assert outcome(run.directory) == outcome(uninterrupted.directory)


def test_without_the_native_kernel_any_number_of_processes_ends_with_the_bits_of_one(
    jobs: Jobs, uninterrupted_by_torch: Job
) -> None:
    run = jobs.run(*BY_TORCH, world_size=5)
    assert result(run.directory)["kernels"] == "torch"
    assert outcome(run.directory) == outcome(uninterrupted_by_torch.directory)


def test_several_threads_end_with_the_bits_of_one(jobs: Jobs, uninterrupted: Job) -> None:
    run = jobs.run("compute.threads=7")
    assert result(run.directory)["threads"] == 7
    assert outcome(run.directory) == outcome(uninterrupted.directory)


def test_bf16_has_bits_of_its_own_and_the_same_on_any_number_of_processes(jobs: Jobs) -> None:
    how = ("compute.kernels=torch", SHORT)
    one, three, exact = (
        outcome(jobs.run(*how, f"compute.precision={bits}", name=name, world_size=size).directory)
        for name, bits, size in (("one", "bf16", 1), ("three", "bf16", 3), ("exact", "no", 1))
    )
    assert one == three != exact


def test_a_sum_that_is_added_in_slices_has_the_same_bits(jobs: Jobs, uninterrupted: Job) -> None:
    run = jobs.run(world_size=3, module="tests.altered:sliced")
    assert run.text().count("a slice of the sum") == 3
    assert outcome(run.directory) == outcome(uninterrupted.directory)


def test_rows_that_go_through_tcp_have_the_same_bits(jobs: Jobs, uninterrupted: Job) -> None:
    run = jobs.run(world_size=3, module="tests.altered:through_tcp")
    assert run.text().count("through Accelerate") == 3
    assert outcome(run.directory) == outcome(uninterrupted.directory)


def test_a_machine_that_computes_four_shards_otherwise_than_few_has_the_same_bits(
    jobs: Jobs, uninterrupted_by_torch: Job
) -> None:
    # Only rank 0 has four shards, and another rank audits them.
    run = jobs.run(*BY_TORCH, world_size=5, module="tests.altered:many_in_other_bits")
    assert "bit-equality check failed on every rank" in run.text()
    assert outcome(run.directory) == outcome(uninterrupted_by_torch.directory)


def test_a_machine_without_avx_512_has_the_same_bits_on_any_number_of_processes(jobs: Jobs) -> None:
    without = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    how = ("train.max_steps=5", "compute.kernels=torch", "compute.threads=2")
    one = jobs.run(*how, name="one", environment=without)
    run = jobs.run(*how, name="three", world_size=3, environment=without)
    assert outcome(run.directory) == outcome(one.directory)


def test_processes_without_a_shard_are_warned_of_once(jobs: Jobs, uninterrupted: Job) -> None:
    job = jobs.run("train.shards=2", "train.max_steps=3", world_size=3)
    warning = "warning: 1 of 3 processes have no shard to compute; train.shards=4 would use them"
    assert job.text().count(warning) == 1
    assert "no shard" not in uninterrupted.text()


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.shards=6", "train.batch_size=252", "optimizer.name=sgd", "optimizer.lr=0.05"),
        ("train.shards=2", "optimizer.name=adam", "schedule.name=cosine", "train.ema_decay=0"),
        ("train.label_smoothing=0.1", "model.mean=0.13", "model.std=0.31", "optimizer.name=muon"),
    ],
)
def test_every_recipe_has_the_same_bits_on_one_and_two_processes(
    jobs: Jobs, overrides: tuple[str, ...]
) -> None:
    one = jobs.run(SHORT, *overrides, name="on-1")
    two = jobs.run(SHORT, *overrides, name="on-2", world_size=2)
    assert outcome(one.directory) == outcome(two.directory)


def test_ddp_losses_agree_to_1e_5_over_100_steps_of_the_seed_recipe(jobs: Jobs) -> None:
    # Not of any recipe: a rounding error that flips one ReLU is a different gradient, and Adam at
    # a high learning rate makes it a different path.
    recipe = (
        "--config", "configs/seed.yaml", "data.name=synthetic", "train.reduction=ddp",
        "compute.threads=1", "train.max_steps=100", "log.every_steps=1", "wandb.mode=disabled",
    )  # fmt: skip
    one, four = (
        [
            line["loss"]
            for line in read_lines(jobs.run(base=recipe, name=f"on-{n}", world_size=n).directory)
            if line["kind"] == "train"
        ]
        for n in (1, 4)
    )
    assert len(one) == 100
    assert four == pytest.approx(one, rel=1e-5)


def test_evaluation_counts_every_image_once_whatever_the_chunks(jobs: Jobs) -> None:
    recipe = ("train.max_steps=2", "evaluate.batch_size=333")
    one = jobs.run(*recipe, name="on-1")
    many = jobs.run(*recipe, name="on-4", world_size=4)
    test = result(many.directory)["test"]
    assert test["count"] == 2000 == sum(map(sum, test["confusion"]))
    assert result(many.directory)["validation"]["count"] == 9500
    assert test == result(one.directory)["test"]


def test_the_loss_falls_and_the_metrics_say_what_the_contract_says(uninterrupted: Job) -> None:
    lines = read_lines(uninterrupted.directory)
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == TRAIN_STEPS
    assert train[-1]["loss"] < train[0]["loss"] / 4
    assert all({"step", "epoch", "samples", "loss", "accuracy", "lr", "grad_norm"} <= set(line)
               for line in train)  # fmt: skip
    evaluations = [(line["kind"], line["step"], line["epoch"]) for line in lines if "count" in line]
    assert evaluations == [("validation", 39, 1), ("validation", 60, 2), ("test", 60, 2)]
    assert lines[-1]["accuracy"] > 0.9


def test_a_result_has_what_the_contract_lists(uninterrupted: Job) -> None:
    found = result(uninterrupted.directory)
    assert found.keys() >= {
        "status", "test", "validation", "parameters", "steps", "epochs", "samples",
        "weights_sha256", "bit_exact", "resumes", "world_size", "device", "hardware", "precision",
        "threads", "seconds", "samples_per_second", "kernels", "config_hash", "data_sha256",
        "versions", "git_commit",
    }  # fmt: skip
    weights = (uninterrupted.directory / "model.safetensors").read_bytes()
    assert found["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert found["status"] == "completed" and found["parameters"] == 61_706
    assert found["seconds"].keys() == {"setup", "train", "evaluate", "total"}
    head = command("git", "rev-parse", "HEAD").stdout.strip()
    assert (found["git_commit"] or "").removesuffix("-dirty") == head
