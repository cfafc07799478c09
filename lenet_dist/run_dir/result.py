"""The result of a complete run, in result.json and on the terminal."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lenet_dist.files import write_atomically
from lenet_dist.plan import Plan
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.system import git_commit, processor

_RECORDED = ("bit_exact", "resumes", "world_size", "device", "threads", "kernels")
_HASHED = ("config_hash", "from", "data_sha256", "versions", "kernel_variables")


def write(
    directory: RunDirectory,
    plan: Plan,
    record: dict[str, Any],
    *,
    weights: bytes,
    parameters: int,
    test: dict[str, Any],
    validation: dict[str, Any] | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Write the final weights and then the result, which makes the run complete. Gives the result.

    `record`: the provenance of the run's bits, as its checkpoints hold it. `weights`: the content
    of the weights file. `seconds`: of each part of the run.
    """
    write_atomically(directory.weights, weights)
    directory.metrics.sync()
    samples = plan.total_steps * plan.batch_size
    result = {
        "status": "completed",
        "test": test,
        "validation": validation,
        "parameters": parameters,
        "steps": plan.total_steps,
        "epochs": plan.total_steps / plan.steps_per_epoch,
        "samples": samples,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **{name: record[name] for name in _RECORDED},
        "hardware": processor(),
        "precision": plan.config.compute.precision,
        "seconds": seconds,
        "samples_per_second": samples / seconds["train"],
        **{name: record[name] for name in _HASHED},
        "git_commit": git_commit(),
    }
    write_atomically(directory.result, json.dumps(result, indent=1).encode())
    return result


def table(result: dict[str, Any], directory: RunDirectory) -> str:
    """The result as a run prints it at its end: two columns, label and value."""
    test, validation, seconds = result["test"], result["validation"], result["seconds"]
    precision = "fp32" if result["precision"] == "no" else result["precision"]
    rows = [
        ("test accuracy", f"{test['accuracy']:.2%} ({test['correct']:,} of {test['count']:,})"),
        ("test loss", f"{test['loss']:.4f}"),
        ("validation accuracy", f"{validation['accuracy']:.2%}" if validation else "none held out"),
        ("trained", f"{result['epochs']:g} epochs, {result['steps']:,} steps"),
        ("hardware", f"{result['world_size']} x {result['device']}, {precision}"),
        ("speed", f"{result['samples_per_second']:,.0f} images/s"),
        ("time", f"{seconds['total']:.1f} s, {seconds['train']:.1f} s of it training"),
        ("weights", f"SHA-256 {result['weights_sha256'][:16]}..."),
        ("bit-exact", "yes" if result["bit_exact"] else "no"),
        ("run", str(directory.path)),
        *([("report", str(directory.report))] if directory.report.exists() else []),
    ]
    return "\n".join(f"{label:>20}  {value}" for label, value in rows)
