"""compute.kernels: chosen once, when a run begins, by all processes alike, and kept."""

from __future__ import annotations

import pytest

from lenet_dist.kernels import native
from tests.outcome import outcome, result
from tests.processes import ONE_EPOCH, Job, Jobs

pytestmark = pytest.mark.processes
needs_kernel = pytest.mark.skipif(
    not native.variants(), reason=f"needs a compiled kernel: {native.reason()}"
)

WITHOUT = {"WITHOUT_KERNEL": "1"}
SHORT = "train.max_steps=20"
ADVICE = "no compiled kernel: install g++"


def test_a_machine_without_a_compiled_kernel_computes_by_torch_and_says_what_would_help(
    jobs: Jobs, uninterrupted_by_torch: Job
) -> None:
    run = jobs.run(*ONE_EPOCH, module="tests.altered:without_kernel", environment=WITHOUT)
    assert run.text().count(f"gradients by torch: {ADVICE}") == 1
    assert result(run.directory)["kernels"] == "torch"
    assert outcome(run.directory) == outcome(uninterrupted_by_torch.directory)
    asked = jobs.start(
        "compute.kernels=native",
        module="tests.altered:without_kernel",
        environment=WITHOUT,
        name="asked",
    ).expect(2)
    assert f"compute.kernels=native: {ADVICE}" in asked.text()


def test_where_one_process_lacks_the_kernel_all_compute_by_torch(jobs: Jobs) -> None:
    alone = jobs.run(SHORT, "compute.kernels=torch", name="alone")
    mixed = jobs.run(
        SHORT, name="mixed", world_size=2, module="tests.altered:without_kernel",
        own_environment={1: WITHOUT},
    )  # fmt: skip
    assert result(mixed.directory)["kernels"] == "torch"
    assert outcome(mixed.directory) == outcome(alone.directory)


@needs_kernel
def test_a_run_keeps_its_kernels_or_refuses_to_go_on(jobs: Jobs) -> None:
    for kernels, other in (("native", "torch"), ("torch", "native")):
        jobs.start(SHORT, f"compute.kernels={kernels}", name=kernels).stop_at(7)
        refused = jobs.start(SHORT, f"compute.kernels={other}", name=kernels).expect(2)
        assert f"compute.kernels: {kernels} -> {other}" in refused.text()
        went_on = jobs.run(SHORT, name=kernels)  # By auto.
        assert result(went_on.directory)["kernels"] == kernels
        assert result(went_on.directory)["bit_exact"]


@needs_kernel
def test_a_run_whose_kernel_is_not_there_any_more_goes_on_only_inexactly(jobs: Jobs) -> None:
    jobs.start(SHORT).stop_at(7)
    how = {"module": "tests.altered:without_kernel", "environment": WITHOUT}
    refused = jobs.start(SHORT, **how).expect(2)  # type: ignore[arg-type]
    said = "began with compute.kernels=native, which can't be used now: no compiled"
    assert said in refused.text()
    ended = result(jobs.run(SHORT, "run.inexact=true", **how).directory)
    assert (ended["kernels"], ended["bit_exact"]) == ("torch", False)


def test_what_the_kernel_does_not_compute_is_refused_where_it_is_asked_for(jobs: Jobs) -> None:
    for key, reason in (
        ("compute.precision=bf16", "it computes in float32"),
        ("train.reduction=ddp", "train.reduction=ddp has none of"),
    ):
        refused = jobs.start("compute.kernels=native", key, name=key.replace("=", "-")).expect(2)
        assert "compute.kernels=native: " in refused.text() and reason in refused.text()
