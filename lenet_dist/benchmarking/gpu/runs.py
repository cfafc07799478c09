"""Training runs of the recipes in configs/, and what is read from what they leave."""

from __future__ import annotations

import functools
import json
import runpy
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenet_dist import exits
from lenet_dist.benchmarking.figures import spread
from lenet_dist.benchmarking.gpu.child import Child, Slot, wait
from lenet_dist.benchmarking.measurements import CONFIGS

PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
"""Values of compute.precision, and what people call them."""

_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Variant:
    """A recipe, and how its steps are computed."""

    recipe: str
    precision: str
    is_captured: bool
    reduction: str

    def __str__(self) -> str:
        """``default, fp32, graph, fixed``."""
        captured = "graph" if self.is_captured else "no graph"
        return f"{self.recipe}, {PRECISIONS[self.precision]}, {captured}, {self.reduction}"

    @property
    def config(self) -> Path:
        return CONFIGS / f"{self.recipe}.yaml"

    def overrides(self, data: Path) -> list[str]:
        """Its keys, for images in the folder `data`."""
        return [
            f"data.root={data}", "data.download=false", "compute.threads=1",
            f"compute.precision={self.precision}",
            f"compute.cuda_graph={str(self.is_captured).lower()}",
            f"train.reduction={self.reduction}", "log.report=false", "wandb.mode=disabled",
        ]  # fmt: skip


def train(slot: Slot, variant: Variant, *overrides: str, name: str = "run") -> dict[str, Any]:
    """What a run on one process leaves; one that was stopped goes on."""
    wait([_start(slot, variant, overrides, name)], slot.until)
    return _read(slot.folder / name)


def train_together(
    slot: Slot, variant: Variant, *overrides: str, processes: int, shares_gpu: bool
) -> dict[str, Any]:
    """The same on several processes: each with a GPU of its own, or all sharing one by gloo."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(processes):
        # Processes that share a GPU each find it as their first, as if on machines of their own.
        local = ("0", "1") if shares_gpu else (str(rank), str(processes))
        environment = {
            "RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": local[0],
            "LOCAL_WORLD_SIZE": local[1], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        children.append(_start(slot, variant, overrides, "run", environment, shares_gpu))
    wait(children, slot.until)
    return _read(slot.folder / "run")


def stop_and_resume(slot: Slot, variant: Variant, *overrides: str) -> dict[str, Any]:
    """The weights' hashes of a run and of one that SIGTERM stopped at its first line."""
    whole = train(slot, variant, *overrides, name="whole")
    first = _start(slot, variant, overrides, "parts")
    metrics = slot.folder / "parts" / "metrics.jsonl"
    try:
        while first.is_running() and time.monotonic() < slot.until:
            if metrics.exists() and metrics.stat().st_size:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        first.process.terminate()
    wait([first], slot.until, exits.STOPPED)
    parts = train(slot, variant, *overrides, name="parts")
    return {
        "whole": whole["weights_sha256"], "parts": parts["weights_sha256"],
        "resumes": parts["resumes"],
    }  # fmt: skip


def _start(
    slot: Slot, variant: Variant, overrides: tuple[str, ...], name: str,
    environment: Mapping[str, str] | None = None, shares_gpu: bool = False,
) -> Child:  # fmt: skip
    environment = environment or {}
    arguments = [
        "--config", str(variant.config), *variant.overrides(slot.data), *overrides,
        f"run.root={slot.folder}", f"run.name={name}",
    ]  # fmt: skip
    output = slot.folder / f"{name}.rank-{environment.get('RANK', '0')}.log"
    return Child(output, environment, _be_a_rank, arguments, shares_gpu)


def _be_a_rank(arguments: list[str], shares_gpu: bool) -> None:
    from accelerate.utils import InitProcessGroupKwargs

    from lenet_dist.processes import accelerator

    if shares_gpu:
        # NCCL refuses several processes on one GPU, and no key of the job asks for gloo.
        by_gloo = functools.partial(InitProcessGroupKwargs, backend="gloo")
        vars(accelerator)["InitProcessGroupKwargs"] = by_gloo
    sys.argv[1:] = arguments
    runpy.run_module("lenet_dist.train", run_name="__main__", alter_sys=True)


def images_per_second(run: Path) -> dict[str, Any]:
    """Of each span between a run's train lines but the first, if there is another: kernels are
    loaded in it, and the step is captured."""
    speeds = [line["samples_per_second"] for line in _lines(run) if line["kind"] == "train"]
    return spread(speeds[1:] or speeds)


def _read(run: Path) -> dict[str, Any]:
    """The figures of a complete run."""
    result, first = json.loads((run / "result.json").read_text()), _lines(run)[0]
    batch_size = result["samples"] // result["steps"]
    images = images_per_second(run)
    return {
        "steps_per_second": spread([speed / batch_size for speed in images["rounds"]]),
        "batch_size": batch_size,
        "first_seconds": first["samples"] / first["samples_per_second"],
        "train_seconds": result["seconds"]["train"],
        "total_seconds": result["seconds"]["total"],
        "accuracy": result["test"]["accuracy"],
        **{key: result[key] for key in ("weights_sha256", "steps", "world_size", "resumes")},
    }


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
