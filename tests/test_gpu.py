"""On a GPU: the same promises, and steps captured as CUDA graphs. Left out where there is none.

Beside each test stands the rule that it would show broken, as torch's and Accelerate's sources
have it.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lenet_dist.data import dataset
from lenet_dist.distributed.accelerator import start_accelerator
from lenet_dist.plan import validate
from lenet_dist.request import load
from lenet_dist.train.clock import Clock
from lenet_dist.train.cuda_graph import CapturedStep
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.shard_gradients import COUNTS, ManyAtOnce, OneByOne
from lenet_dist.train.state import build_state
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5
from tests.bare_trainer import bare_trainer
from tests.outcome import outcome, read_lines, result
from tests.processes import Jobs

pytestmark = [pytest.mark.processes, pytest.mark.gpu]
STEPS = 40


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process, and refuses another precision and another device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def pieces(*overrides: str, captured: bool = False) -> tuple[Any, Any, Any, dataset.Images]:
    """Plan, accelerator, state and the synthetic images, as a job has them."""
    keys = ["data.name=synthetic", "train.clip_norm=1", "compute.audit_every=0", *overrides]
    config = load(None, keys)
    plan = validate(config, 1)
    accelerator = start_accelerator(config.compute)
    images = dataset.synthetic("train").to(accelerator.device)
    state = build_state(LENET5, config, accelerator, Clock(0.0), capturable=captured)
    return plan, accelerator, state, images


class Steps:
    """Steps on synthetic images, captured or not."""

    def __init__(self, captured: bool, *overrides: str) -> None:
        plan, accelerator, self.state, images = pieces(*overrides, captured=captured)
        ids = torch.arange(len(images), device=accelerator.device)
        stopwatch = Stopwatch(accelerator.device)
        self.trainer = bare_trainer(plan, accelerator, self.state, stopwatch, images, ids)
        self.captured_step = CapturedStep(
            self.trainer.train_step, self.state, images, plan.batch_size, lambda _: False, stopwatch
        )
        if captured:
            first = self.trainer.step_params.set(0)
            self.captured_step.capture(first, plan.config.compute, accelerator)
        assert (self.captured_step.graph is not None) == captured

    def __call__(self, step: int) -> StepMetrics:
        """Take step number `step` (from 0): a replay, if it is captured."""
        ids = self.trainer.audit.batches.of_step(step)
        return self.captured_step(ids, step, self.trainer.step_params.set(step))


def trained(captured: bool, *overrides: str) -> list[Tensor]:
    """Weights, EMA and the last step's metrics after STEPS steps."""
    take_step = Steps(captured, *overrides)
    for step in range(STEPS):
        torch.cuda.set_sync_debug_mode("error" if captured or step > 1 else "default")
        metrics = take_step(step)
    torch.cuda.set_sync_debug_mode("default")
    take_step.captured_step.release()
    weights = [p.detach() for p in take_step.state.model.parameters()]
    return weights + list(take_step.state.weights_to_evaluate().values()) + list(metrics)


def two_can_meet() -> dict[str, str]:
    """The environment in which two processes find a GPU each, or an NCCL that lets them share."""
    shared = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"} if torch.cuda.device_count() < 2 else {}
    if shared and torch.cuda.nccl.version() < (2, 30):
        pytest.skip("needs two GPUs, or NCCL 2.30")
    return shared


# Streams: the whole run is on one stream from before the model is wrapped, because DDP's part of
# the backward pass stays on the stream on which DDP was made (cuda_graph.captures_steps).
# Allocation: a capture's tensors lie in the graph's own memory; the gradient that `weights.grad`
# holds from before the capture would not, so it is dropped before.
# Capture: error mode thread_local, since NCCL's watchdog queries events and autograd's thread may
# allocate meanwhile. torch.cuda.graph waits for the GPU and empties the allocator's cache, once.
# Adam: `capturable` only lets the fused step be captured. Its kernel is the same without, as the
# counter of steps and, here, the learning rate lie on the GPU either way. SGD has no such flag
# and needs none.
# Autocast: a forward pass of Accelerate's wrapper leaves autocast, which clears the cache of cast
# weights, so that a capture finds none from before it.
# GradScaler: with a fused optimizer `step` does not read whether a gradient is finite. The kernel
# does. `unscale_` takes the flat weights' gradient, wherever it comes from; `update` changes
# scale and growth tracker in place. So fp16 can be captured too.
# Determinism: torch's list of operations without a deterministic kernel has none of the step's.
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd"])
@pytest.mark.parametrize("reduction", ["fixed", "ddp"])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_captured_step_has_the_bits_of_an_uncaptured_one_and_neither_waits_for_the_gpu(
    optimizer: str, reduction: str, precision: str
) -> None:
    overrides = (
        f"optimizer.name={optimizer}", "optimizer.lr=0.003", f"train.reduction={reduction}",
        f"compute.precision={precision}", "augment.rotate=10", "augment.translate=0.08",
    )  # fmt: skip
    with torch.cuda.stream(torch.cuda.Stream()):
        plain, captured = trained(False, *overrides), trained(True, *overrides)
    assert all(torch.equal(a, b) for a, b in zip(plain, captured, strict=True))


def samples(count: int) -> tuple[Tensor, Tensor]:
    images = dataset.synthetic("train")
    return dataset.pixels(images.images[:count]), images.labels[:count]


# TF32 has 10 bits of mantissa instead of 23, which makes an error of some 5e-4. torch switches it
# on for cuDNN's convolutions unless torch.backends.cudnn.conv.fp32_precision says otherwise, as
# `start` has it say. The old switch, cudnn.allow_tf32, warns in some versions of torch; reading it
# fails once the new one is set, and only the compiler's max-autotune does that.
def test_float32_is_float32_many_at_once_and_one_by_one() -> None:
    plan, accelerator, state, _ = pieces()
    config, device = plan.config, accelerator.device
    inputs, labels = samples(64)
    on_gpu = (inputs.to(device), labels.to(device), range(4), 0)
    ways = (
        ManyAtOnce(state, LENET5.loss, config, 4),
        OneByOne(state, LENET5.loss, config, draws_random_numbers=False),
    )
    found = [rows(*on_gpu).cpu()[:, :-COUNTS] for rows in ways]
    state.model.double()
    state.trainable = dict(state.model.named_parameters())
    exact = OneByOne(state, LENET5.loss, config, draws_random_numbers=False)
    expected = exact(inputs.to(device).double(), *on_gpu[1:]).cpu()[:, :-COUNTS]
    for rows in found:
        assert (rows - expected).norm() / expected.norm() < 1e-5


# cuDNN and cuBLAS choose kernels by size, so a part has one size, whatever of it is used.
# Whether a shard's place in it changes its bits is what each start finds out. If this
# fails, no run does: it says so and computes its shards one at a time, in more time and with the
# same bits.
@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_a_shard_has_the_same_bits_at_every_place_of_its_part(size: int) -> None:
    plan, accelerator, state, _ = pieces()
    at_once = min(16, 1024 // size)
    rows = ManyAtOnce(state, LENET5.loss, plan.config, at_once, size=at_once)
    inputs, labels = (t.to(accelerator.device) for t in samples(at_once * size))
    together = rows(inputs, labels, range(at_once), 0)
    for shard in range(at_once):
        own = slice(shard * size, (shard + 1) * size)
        alone = rows(inputs[own], labels[own], range(shard, shard + 1), 0)
        assert torch.equal(alone[0], together[shard])


# The scale of fp16 begins at 65536, so first steps may be skipped. The checkpoint has it with the
# growth tracker.
@pytest.mark.parametrize(
    "keys",
    [(), ("compute.precision=bf16",), ("compute.precision=fp16", "optimizer.name=sgd")],
)
def test_by_default_a_run_is_captured_learns_and_has_the_bits_of_one_not_captured_or_stopped(
    jobs: Jobs, keys: tuple[str, ...]
) -> None:
    keys = (*keys, "train.max_steps=200")
    plain = jobs.run(*keys, "compute.cuda_graph=false", name="plain")
    captured = jobs.run(*keys, name="captured")
    assert "not captured" not in captured.text()
    assert result(captured.directory)["device"] == torch.cuda.get_device_name()
    assert result(captured.directory)["test"]["accuracy"] > 0.9
    jobs.start(*keys, name="parts").stop_at(28)
    again = jobs.run(*keys, name="parts")
    assert outcome(again.directory) == outcome(captured.directory) == outcome(plain.directory)


# Only the user knows whether a model reads numbers from the GPU.
def test_a_model_of_ones_own_is_captured_if_asked_and_has_the_same_bits(jobs: Jobs) -> None:
    plain = jobs.run("compute.cuda_graph=false", name="plain", module="docs.your_own")
    captured = jobs.run("compute.cuda_graph=true", name="captured", module="docs.your_own")
    assert "not captured" not in captured.text()
    assert outcome(captured.directory) == outcome(plain.directory)


# A replay is one launch, which the GPU has before it has done the last one: it waits for no CPU.
def test_a_replayed_step_takes_little_longer_than_its_kernels() -> None:
    with torch.cuda.stream(torch.cuda.Stream()):
        take_step = Steps(True)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        for step in range(250):
            if step == 50:
                marks[0].record()
            take_step(step)
        marks[1].record()
        torch.cuda.synchronize()
        took = marks[0].elapsed_time(marks[1]) * 1e3 / 200
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            for step in range(250, 300):
                take_step(step)
            torch.cuda.synchronize()
    kernels = sum(event.self_device_time_total for event in profiled.key_averages()) / 50
    assert took < 1.3 * kernels, f"{took:.0f} us a step, {kernels:.0f} us of kernels"


# tuomaso/train_mnist_fast takes 0.762 s on a GTX 1660 Ti.
def test_the_fast_recipe_is_fast_and_learns(jobs: Jobs, mnist: Path) -> None:
    quiet = (f"data.root={mnist}", "log.report=false", "wandb.mode=disabled")
    job = jobs.run(base=("--config=configs/fast.yaml", *quiet))
    found = result(job.directory)
    assert found["test"]["accuracy"] > 0.988 and found["seconds"]["train"] < 0.762, found


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_preflight_captures_a_step_and_finds_nothing_wrong(jobs: Jobs, world_size: int) -> None:
    environment = two_can_meet() if world_size == 2 else {}
    how = {"module": "lenet_dist.preflight", "environment": environment}
    job = jobs.run("--slow=1000", world_size=world_size, **how)
    assert "preflight: a captured step" in job.text() and "not captured" not in job.text()


# An audited step is not replayed, and has the bits of a replay.
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_an_audit_finds_nothing_in_a_captured_run_and_changes_no_bit(
    jobs: Jobs, precision: str
) -> None:
    keys = (f"compute.precision={precision}", "compute.cuda_graph=true")
    plain = jobs.run(*keys, "compute.audit_every=0", name="plain")
    audited = jobs.run(*keys, "compute.audit_every=4", name="audited")
    assert outcome(audited.directory) == outcome(plain.directory)


# cuDNN chooses by timing then, each process for itself: other bits are no sign of a wrong machine.
def test_without_deterministic_kernels_no_shard_is_audited(jobs: Jobs) -> None:
    how = {"module": "tests.impatient", "name": "plain"}
    plain = jobs.run("compute.deterministic=false", "compute.audit_every=1", **how)
    assert "audited step" not in plain.text()
    audited = jobs.run("compute.audit_every=1", module="tests.impatient")
    assert "audited step" in audited.text()


def test_a_run_on_a_gpu_ends_near_the_one_on_a_cpu(jobs: Jobs) -> None:
    on_gpu = jobs.run(name="gpu")
    on_cpu = jobs.run(name="cpu", environment={"ACCELERATE_USE_CPU": "1"})
    assert result(on_cpu.directory)["device"] == "cpu"
    pairs = zip(read_lines(on_gpu.directory), read_lines(on_cpu.directory), strict=True)
    for ours, theirs in pairs:
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05, abs=0.02)


# NCCL compares bus numbers when it connects, and refuses; the processes compare UUIDs before. There
# is nothing to fall back on: gloo would take every gradient through the CPU's memory, and that
# can't be captured.
def test_two_processes_on_one_gpu_are_refused_with_the_reason(jobs: Jobs) -> None:
    job = jobs.start(world_size=2, environment={"CUDA_VISIBLE_DEVICES": "0"}).expect(2)
    assert "ranks 0 and 1 have the same GPU on " in job.text()
    assert "Traceback" not in job.text()


# The collectives of a graph are not put before NCCL's watchdog, so nothing but the thread that
# counts how long the main one waits ends a process whose peer is frozen.
@pytest.mark.parametrize("captured", ["true", "false"])
def test_a_rank_that_hangs_ends_the_job_within_the_timeout(jobs: Jobs, captured: str) -> None:
    keys = ("compute.timeout_seconds=5", f"compute.cuda_graph={captured}", "train.max_steps=100000")
    job = jobs.start(*keys, world_size=2, environment=two_can_meet())
    job.until_step(14)
    job.ranks[1].send(signal.SIGSTOP)
    assert job.main.wait(80) == 1
    assert "lost another process, or waited for it longer" in job.main.text()


# NCCL's collectives become part of the graph: all_gather takes its output from the graph's
# memory, works on the current stream and is not put before the watchdog. The 11 steps that were
# rehearsed have connected the processes, and DDP has settled its buckets and stopped timing its
# steps. A communicator counts the graphs that have work of it, and is not destroyed before they
# are: these runs would not end if the graph were not given back.
@pytest.mark.parametrize(
    "keys",
    [
        ("compute.precision=bf16",),
        ("train.shards=3", "train.batch_size=48"),
        ("train.reduction=ddp",),
    ],
)
def test_two_processes_have_the_bits_of_one_captured_or_not_and_after_a_stop(
    jobs: Jobs, keys: tuple[str, ...]
) -> None:
    two: dict[str, Any] = {"world_size": 2, "environment": two_can_meet()}
    jobs.run(*keys, "compute.cuda_graph=false", name="plain", **two)
    captured = jobs.run(*keys, name="captured", **two)
    assert "not captured" not in captured.text()
    jobs.start(*keys, name="parts", **two).stop_at(28)
    for name in ("parts", "again"):  # DDP's sum depends on the number of processes.
        jobs.run(*keys, name=name, **(two if "train.reduction=ddp" in keys else {}))
    for name in ("plain", "parts", "again"):
        assert outcome(jobs.folder / name) == outcome(captured.directory), name


# Accelerate takes the GPU by the local rank modulo the number of GPUs that it sees, but gives DDP
# the local rank itself, unless ACCELERATE_BYPASS_DEVICE_MAP is set; then DDP moves no inputs, and
# need not.
@pytest.mark.parametrize("reduction", ["fixed", "ddp"])
def test_tasks_that_see_one_gpu_each_have_the_bits_of_tasks_that_see_all(
    jobs: Jobs, reduction: str
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    own = {rank: {"CUDA_VISIBLE_DEVICES": str(rank)} for rank in range(2)}
    keys = (f"train.reduction={reduction}", "compute.precision=bf16")
    all_seen = jobs.run(*keys, name="all", world_size=2)
    one_seen = jobs.run(*keys, name="one", world_size=2, own_environment=own)
    assert outcome(one_seen.directory) == outcome(all_seen.directory)
    assert "barrier()" not in all_seen.text() + one_seen.text()


# An event that a graph records must be external: only then does each replay record it anew, and
# may it be read from outside (cudaEventRecordExternal). Reading waits for the event; the losses of
# the same line have been waited for already.
@pytest.mark.parametrize("reduction", ["fixed", "ddp"])
@pytest.mark.parametrize("captured", ["true", "false"])
def test_the_seconds_of_each_process_are_those_of_its_gpu(
    jobs: Jobs, reduction: str, captured: str
) -> None:
    world_size = min(2, torch.cuda.device_count())
    keys = (f"compute.cuda_graph={captured}", f"train.reduction={reduction}")
    job = jobs.run(*keys, world_size=world_size)
    lines = [json.loads(text) for text in (job.directory / "ranks.jsonl").read_text().splitlines()]
    assert sum(line["steps"] for line in lines) == 60
    spent = [(line["computed"][r], line["waited"][r]) for line in lines for r in range(world_size)]
    assert all(computed > 0 for computed, _ in spent)
    assert all((waited > 0) == (world_size > 1) for _, waited in spent)
    assert sum(map(sum, spent)) / world_size < result(job.directory)["seconds"]["train"]
