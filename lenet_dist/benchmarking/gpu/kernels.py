"""One training step, taken apart: its time, its kernels, the gaps between them."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lenet_dist import request
from lenet_dist.config import Config
from lenet_dist.data import dataset, sampler
from lenet_dist.inspection.device import wait_for
from lenet_dist.machine.clock import Clock
from lenet_dist.plan import validate
from lenet_dist.processes import accelerator as accelerators
from lenet_dist.training import gradient, graph
from lenet_dist.training import state as states
from lenet_dist.training.graph import CapturedStep
from lenet_dist.training.step import TrainStep
from lenet_dist.training.stopwatch import Stopwatch
from lenet_dist.training.task import LENET5

_WARM_UP_STEPS = 20
_ROUNDS = 5
_PROFILED_STEPS = 5
_MOST = 5
"""The kernels that take longest are named, so many."""
_ON_DEVICE = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}
"""Categories of the profiler's events that keep a device busy."""


def take_apart(config_file: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Microseconds of a step of this job alone, without loader and loop, and its kernels.

    The times without the profiler are of `steps` steps each. Gaps are what the profiled kernels
    leave of the time of a step without the profiler, which slows the CPU down.
    """
    config = request.load(config_file, overrides)
    accelerator = accelerators.start(config.compute)
    torch.set_num_threads(1)
    device = accelerator.device
    with _profiled():  # CUPTI is to be there before anything is captured.
        torch.ones(1, device=device)
    take = _stepper(config, accelerator)
    take(_WARM_UP_STEPS)
    wait_for(device)
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        take(steps)
        wait_for(device)
        rounds.append(1e6 * (time.perf_counter() - began) / steps)
    with _profiled() as taken:
        take(_PROFILED_STEPS)
        wait_for(device)
    step = statistics.median(rounds)
    found = _kernels(taken, device.type)
    return {
        "step_us": step, "least_us": min(rounds), "greatest_us": max(rounds),
        "gaps_us": step - found["busy_us"], **found,
    }  # fmt: skip


def _stepper(config: Config, accelerator: Any) -> Callable[[int], None]:
    """Takes so many steps of the job that the config asks for, and does not wait for the device."""
    plan, device = validate(config, 1), accelerator.device
    wanted = config.compute.cuda_graph is not False
    is_captured = wanted and graph.obstacle(config.compute, accelerator, LENET5) is None
    if is_captured:
        graph.enter_side_stream(device)
    images = dataset.load(config.data, "train").to(device)
    model = LENET5.build(config).to(device)
    state = states.build(model, config, accelerator, Clock(0.0), capturable=is_captured)
    stopwatch = Stopwatch(device, accelerator.gather)
    of_batch = gradient.build(plan, accelerator, LENET5, state, stopwatch, images)
    step = TrainStep(plan, of_batch, state)
    captured = CapturedStep(step, images)
    ids, _ = sampler.split(config.seed, len(images), config.data.validation)
    batches = iter(
        sampler.GlobalBatches(
            ids.to(device), batch_size=plan.batch_size, seed=config.seed,
            first_step=0, last_step=plan.total_steps,
        )
    )  # fmt: skip

    def take(steps: int) -> None:
        for _ in range(steps):
            if is_captured:
                captured(next(batches), state.step)
            else:
                step(images.batch_of(next(batches)), state.step)
            state.step += 1

    return take


def _profiled() -> profile:
    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return profile(activities=[ProfilerActivity.CPU, *on_gpu])


def _kernels(taken: profile, device: str) -> dict[str, Any]:
    """A step's kernels and launches, read from the profiler's trace."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        taken.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    kernels = [event for event in events if event.get("cat") in _ON_DEVICE[device]]
    launches = [event for event in events if "Launch" in str(event.get("name"))]
    launches = [event for event in launches if str(event.get("cat")).startswith("cuda")]
    times: Counter[str] = Counter()
    for event in kernels:
        times[event["name"]] += event["dur"] / _PROFILED_STEPS
    return {
        "kernels": len(kernels) / _PROFILED_STEPS,
        "launches": len(launches) / _PROFILED_STEPS,
        "busy_us": _covered((e["ts"], e["ts"] + e["dur"]) for e in kernels) / _PROFILED_STEPS,
        "most": dict(times.most_common(_MOST)),
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length that spans cover, where they overlap only once."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
