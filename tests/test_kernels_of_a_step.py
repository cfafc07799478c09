"""How many kernels a step launches on a GPU, counted on tensors without numbers.

A network this small keeps a GPU busy for less time than one kernel after the other takes to start
and to end. So their number is what a step costs. An operation counts as one kernel; a few launch
another one to lay memory out anew.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lenet_dist.data.dataset import Images
from lenet_dist.plan import validate
from lenet_dist.request import load
from lenet_dist.train.clock import Clock
from lenet_dist.train.cuda_graph import CapturedStep
from lenet_dist.train.metrics import StepMetrics
from lenet_dist.train.state import build_state
from lenet_dist.train.stopwatch import Stopwatch
from lenet_dist.train.task import LENET5, cross_entropy, cross_entropy_of_classes
from tests.bare_trainer import bare_trainer
from tests.test_without_gpu import GPU, numberless, on_gpu

__all__ = ["numberless"]

CONFIGS = Path(__file__).parents[1] / "configs"
_NO_KERNEL = ("empty", "new_empty", "detach", "lift_fresh", "_unsafe_view")


class Launches(TorchDispatchMode):
    """Notes the operations that launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        name = operation.name().removeprefix("aten::")
        if not operation.is_view and not name.startswith(_NO_KERNEL):
            self.names.append(name)
        return operation(*args, **(kwargs or {}))


class Steps:
    """Steps without numbers. One was taken, which has made what is kept."""

    def __init__(self, config_file: str) -> None:
        config = load(CONFIGS / config_file, ["data.name=synthetic", "compute.audit_every=0"])
        plan = validate(config, 1)
        with GPU:
            images = Images(torch.zeros(9000, 28, 28, dtype=torch.uint8), torch.zeros(9000).long())
            self.ids = torch.zeros(plan.batch_size, dtype=torch.int64)
            state = build_state(LENET5, config, on_gpu(), Clock(0.0), capturable=True)
            stopwatch = Stopwatch(torch.device("cpu"))
            trainer = bare_trainer(plan, on_gpu(), state, stopwatch, images, self.ids)
        self.params = trainer.step_params
        self.captured_step = CapturedStep(
            trainer.train_step, state, images, plan.batch_size, trainer.audit.recomputes, stopwatch
        )
        self.captured_step.metrics = self(0)

    def __call__(self, step: int) -> StepMetrics:
        return self.captured_step(self.ids, step, self.params.set(step))


@pytest.mark.parametrize(
    ("config_file", "most"),
    [("fast.yaml", 60), ("default.yaml", 104), ("seed.yaml", 57), ("best.yaml", 301)],
)
def test_a_step_launches_no_more_kernels_than_this(
    numberless: None, config_file: str, most: int
) -> None:
    steps = Steps(config_file)
    with Launches() as beside:
        steps.params.set(1)
    with Launches() as all_of_them:
        steps(1)
    assert len(all_of_them.names) - len(beside.names) <= most, all_of_them.names


def test_beside_a_graph_a_step_launches_three_kernels(numberless: None) -> None:
    """The batch's ids and the step's numbers go in, and its metrics come out."""
    steps = Steps("default.yaml")
    graph: Any = SimpleNamespace(replay=lambda: None)
    steps.captured_step.graph = graph
    with Launches() as launches:
        steps(1)
    assert launches.names == ["copy_", "copy_", "stack"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_gpus_cross_entropy_is_torchs(smoothing: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 10, generator=draw, dtype=torch.float64).mul_(9).requires_grad_()
    labels = torch.randint(10, (64,), generator=draw)
    of_torch = cross_entropy(logits, labels, smoothing)
    ours = cross_entropy_of_classes(10, smoothing, torch.device("cpu"))(logits, labels, smoothing)
    assert ours.item() == pytest.approx(of_torch.item(), rel=1e-7)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, of_torch)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
