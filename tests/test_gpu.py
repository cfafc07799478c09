"""On a GPU: the same promises, and steps captured as CUDA graphs. Left out where there is none."""

from __future__ import annotations

import re

import pytest
import torch

from lenet_dist.data import dataset, sampler
from lenet_dist.machine.clock import Clock
from lenet_dist.plan import validate
from lenet_dist.processes import accelerator as accelerators
from lenet_dist.request import load
from lenet_dist.training import gradient
from lenet_dist.training import state as states
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.step import TrainStep
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import LENET5
from tests.processes import Job, Jobs, checkpoint_steps, outcome, read_lines, result

pytestmark = pytest.mark.gpu
STEPS = 40


def trained(captured: bool, *overrides: str) -> list[torch.Tensor]:
    """Weights, running mean and the last step's numbers after STEPS steps on synthetic images."""
    settings = ["data.name=synthetic", "train.clip_norm=1", f"compute.cuda_graph={captured}"]
    config = load(None, [*settings, *overrides])
    plan = validate(config, 1)
    accelerator = accelerators.start(config.compute)
    images = dataset.synthetic("train").to(accelerator.device)
    ids = torch.arange(len(images), device=accelerator.device)
    model = LENET5.build(config).to(accelerator.device)
    state = states.build(model, config, accelerator, Clock(0.0), capturable=captured)
    stopwatch = Stopwatch(accelerator.device, accelerator.gather)
    of_batch = gradient.build(plan, accelerator, LENET5, state, stopwatch, images)
    step = TrainStep(plan, of_batch, state)
    batches = sampler.GlobalBatches(
        ids, batch_size=plan.batch_size, seed=0, first_step=0, last_step=STEPS
    )
    captured_step = CapturedStep(step, images)
    for number, batch_ids in enumerate(batches):
        if number == 2:
            torch.cuda.set_sync_debug_mode("error")  # Nothing waits for the GPU within a step.
        if captured:
            if captured_step.graph is None and captured_step.steps_to_warm_up == 0:
                torch.cuda.set_sync_debug_mode("default")  # Capturing itself does.
            stats = captured_step(batch_ids, number)
        else:
            stats = step(images.__getitems__(batch_ids), number)
    torch.cuda.set_sync_debug_mode("default")
    assert (captured_step.graph is not None) == captured
    return [p.detach() for p in model.parameters()] + list(state.weights().values()) + list(stats)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("reduction", ["fixed", "ddp"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
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


def test_a_captured_run_learns_and_has_the_bits_of_one_that_was_stopped_in_between(
    jobs: Jobs,
) -> None:
    whole = jobs.run("compute.cuda_graph=true", "train.max_steps=200", name="whole")
    assert result(whole.directory)["device"] == torch.cuda.get_device_name()
    assert result(whole.directory)["test"]["accuracy"] > 0.9
    parts = jobs.start("compute.cuda_graph=true", "train.max_steps=200", name="parts")
    parts.until(lambda: 20 in checkpoint_steps(parts.directory))
    parts.main.send(15)
    parts.expect(75)
    again = jobs.run("compute.cuda_graph=true", "train.max_steps=200", name="parts")
    assert outcome(again.directory) == outcome(whole.directory)


def test_a_run_on_a_gpu_ends_near_the_one_on_a_cpu(jobs: Jobs, uninterrupted: Job) -> None:
    on_gpu = jobs.run(name="gpu")
    pairs = zip(read_lines(on_gpu.directory), read_lines(uninterrupted.directory), strict=True)
    for ours, theirs in pairs:
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05, abs=0.02)


def test_fp16_goes_on_uncaptured_and_says_so(jobs: Jobs) -> None:
    job = jobs.run("compute.precision=fp16", "compute.cuda_graph=true")
    assert len(re.findall("not captured: with fp16", job.text())) == 1


def test_two_gpus_have_the_bits_of_one(jobs: Jobs) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for captured in ("false", "true"):
        one = jobs.run(f"compute.cuda_graph={captured}", name=f"one-{captured}")
        two = jobs.run(f"compute.cuda_graph={captured}", name=f"two-{captured}", world_size=2)
        assert outcome(one.directory) == outcome(two.directory)
