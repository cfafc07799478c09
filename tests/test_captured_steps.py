"""Steps that are rehearsed, captured and replayed, where there is no GPU: a graph is a tape."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.amp import GradScaler

from lenet_dist.data.dataset import Batch, synthetic
from lenet_dist.plan import validate
from lenet_dist.preflight.single_rank import ShortTraining
from lenet_dist.request import load
from lenet_dist.train import process_state
from lenet_dist.train.clock import Clock
from lenet_dist.train.optimizer import build_optimizer, state_tensors
from lenet_dist.train.rehearsal import REHEARSED, rehearsal
from lenet_dist.train.state import TrainState, build_state
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5
from tests.bare_trainer import bare_trainer
from tests.outcome import outcome
from tests.processes import Job, Jobs

TAPED: dict[str, Any] = {"module": "tests.taped"}
SHORT = ("compute.kernels=torch", "train.max_steps=24", "compute.audit_every=10")
CAPTURED = ("compute.cuda_graph=true", *SHORT)
GIVEN_BACK, LEFT = "the graph is given back", "the process group is left"


@pytest.fixture(scope="session")
def plain(shared_jobs: Jobs) -> Job:
    """One process whose steps are not captured."""
    return shared_jobs.run("compute.cuda_graph=false", *SHORT, name="not-captured", **TAPED)


@pytest.mark.processes
def test_a_captured_run_has_the_bits_of_any_other_also_after_a_stop_and_gives_its_graph_back(
    jobs: Jobs, plain: Job
) -> None:
    whole = jobs.run(*CAPTURED, name="whole", **TAPED)
    assert "replays: 22" in whole.text(), "of 24 steps two are audited, and all others replayed"
    said = whole.text()
    assert said.index(GIVEN_BACK) < said.index(LEFT), "or NCCL waits for the graph for ever"
    jobs.start(*CAPTURED, name="parts", **TAPED).stop_at(14)
    again = jobs.run(*CAPTURED, name="parts", **TAPED)
    assert "replays: " in again.text()
    assert outcome(again.directory) == outcome(whole.directory) == outcome(plain.directory)


@pytest.mark.processes
@pytest.mark.parametrize(("asked", "stream"), [("auto", ""), ("true", "warning: ")])
def test_a_capture_that_fails_on_one_process_is_said_and_no_process_replays(
    jobs: Jobs, plain: Job, asked: str, stream: str
) -> None:
    how = {"world_size": 2, "environment": {"FAILING": "1"}, **TAPED}
    job = jobs.run(*SHORT, f"compute.cuda_graph={asked}", **how)
    told = [line for line in job.text().splitlines() if "not captured" in line]
    because = "it failed on rank 1: CUDA error: operation failed due to an error during capture"
    assert told == [f"{stream}compute.cuda_graph={asked}: steps are not captured: {because}"]
    assert job.text().count("replays: 0") == 2
    assert outcome(job.directory) == outcome(plain.directory)


PREFLIGHT: dict[str, Any] = {
    "module": "tests.taped_preflight",
    "world_size": 2,
    "base": ("data.name=synthetic", "compute.threads=1", "compute.kernels=torch", "--slow=1000"),
}


@pytest.mark.processes
def test_a_preflight_replays_a_captured_step_gives_it_back_and_names_a_rank_that_can_not(
    jobs: Jobs, tmp_path: Path
) -> None:
    def weights(name: str) -> list[str]:
        return [
            rank["weights_sha256"] for rank in json.loads((tmp_path / name).read_text())["ranks"]
        ]

    plain = jobs.run("compute.cuda_graph=false", f"--json={tmp_path}/plain", **PREFLIGHT)
    captured = jobs.run(f"--json={tmp_path}/captured", **PREFLIGHT)
    assert "replays: 0" in plain.text() and GIVEN_BACK not in plain.text()
    assert captured.text().count("replays: 2") == captured.text().count(GIVEN_BACK) == 2
    how = {"environment": {"FAILING": "1"}, **PREFLIGHT}
    failed = jobs.start(f"--json={tmp_path}/failed", **how).expect(1)
    because = "a step can't be captured: CUDA error: operation failed due to an error"
    findings = failed.main.text().partition("failed: ")[2].splitlines()
    assert [line.startswith("rank 1 on ") for line in findings] == [True], findings
    assert f": CUDA graph: {because}" in findings[0]
    assert weights("plain") == weights("captured") == weights("failed")


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon", "sgd"])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_steps_that_are_rehearsed_leave_every_bit_of_the_state_as_it_was(
    optimizer: str, steps_before: int
) -> None:
    keys = ["data.name=synthetic", f"optimizer.name={optimizer}", "compute.audit_every=0"]
    rehearsed, plain = (Stepper(*keys) for _ in range(2))
    for step in range(steps_before):
        rehearsed(step), plain(step)
    before = bits_of(rehearsed.state)
    with rehearsal(rehearsed.state):
        for _ in range(3):
            rehearsed(REHEARSED)
        assert bits_of(rehearsed.state) != before
    after = bits_of(rehearsed.state)
    assert {name: after[name] for name in before} == before
    for step in range(steps_before, steps_before + 3):
        rehearsed(step), plain(step)
    assert bits_of(rehearsed.state) == bits_of(plain.state)


class Stepper:
    """Steps of LeNet-5 under a gradient scaler, on synthetic images."""

    def __init__(self, *overrides: str) -> None:
        config = load(None, list(overrides))
        plan, self.images = validate(config, 1), synthetic("train")
        accelerator = Accelerator(cpu=True)
        self.state = build_state(LENET5, config, accelerator, Clock(0.0), capturable=True)
        self.state.scaler = GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        self.ids = torch.arange(plan.batch_size)
        stopwatch = Stopwatch(torch.device("cpu"))
        self.trainer = bare_trainer(plan, accelerator, self.state, stopwatch, self.images, self.ids)

    def __call__(self, step: int) -> None:
        batch = self.images.batch_of(self.ids + max(step, 0))
        self.trainer.train_step(batch, step, self.trainer.step_params.set(max(step, 0)))


class Kept(Stopwatch):
    """A stopwatch whose marks can be seen to die."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.marks: list[weakref.ref[Any]] = []

    def mark(self) -> Any:
        moment: set[int] = set()  # What can be referred to weakly.
        self.marks.append(weakref.ref(moment))
        return moment


def test_ddp_marks_two_moments_of_a_step_and_both_live_as_long_as_a_graph_needs_them() -> None:
    step = Stepper("data.name=synthetic", "train.reduction=ddp", "compute.audit_every=0")
    assert step.trainer.ddp_gradient
    step.trainer.ddp_gradient.stopwatch = kept = Kept()
    step(0)
    gc.collect()
    assert [mark() is not None for mark in kept.marks] == [True, True]


def bits_of(state: TrainState) -> dict[str, bytes]:
    """Every tensor that a checkpoint holds, and the scaler's."""
    kept = state_tensors(state.optimizer, state.trainable) | state.weights_to_evaluate()
    kept |= {f"weight {name}": weight for name, weight in state.model.state_dict().items()}
    scaler = state.scaler.state_dict()
    kept |= {name: torch.tensor(scaler[name]) for name in ("scale", "_growth_tracker")}
    return {name: tensor.detach().numpy().tobytes() for name, tensor in kept.items()}


def test_sgd_goes_on_from_no_momentum_after_a_first_step_that_the_scaler_skipped() -> None:
    config = load(None, ["optimizer.name=sgd", "optimizer.weight_decay=0"]).optimizer
    weights = torch.nn.Parameter(torch.zeros(1000))
    sgd: Any = build_optimizer(config, {}, weights, skips=True)
    for found_inf in (1.0, 0.0):
        weights.grad = torch.ones(1000)
        sgd.grad_scale, sgd.found_inf = None, torch.tensor(found_inf)
        sgd.step()
    assert torch.equal(weights.detach(), torch.full((1000,), -config.lr))


def test_short_trainings_are_alike_though_a_scaler_skips_the_first_step_of_each() -> None:
    config = load(None, ["data.name=synthetic", "optimizer.name=sgd", "compute.kernels=torch"])
    with process_state.put_back():
        torch.set_deterministic_debug_mode("error")  # Fills memory that is allocated with NaN.
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = GradScaler("cpu")
        training: Any = ShortTraining(config, accelerator)
        by_itself = training._sum

        def overflown(batch: Batch, step: int, params: StepParams) -> Tensor:
            total: Tensor = by_itself(batch, step, params)
            assert total.isfinite().all(), "the weights have been spoilt"
            return total if step else total * torch.inf

        training._sum = overflown
        assert training.weights_sha256() == training.weights_sha256()
