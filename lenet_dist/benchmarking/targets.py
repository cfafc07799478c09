"""What this job is held to: ratios of two figures, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lenet_dist.benchmarking.figures import FigureName, Groups, entry_at

ACCURACY = 0.99
"""The test accuracy that the group time_to_accuracy trains to."""

BATCH_SIZES = (64, 256, 1024)
"""The batch sizes that have targets."""

Sense = Literal["at least", "at most", "no bound"]


@dataclass(frozen=True)
class Target:
    """`over` / `under` must be at least, or at most, `bound`; without one it is only reported."""

    name: str
    over: FigureName
    under: FigureName
    sense: Sense
    bound: float | None = None

    @property
    def bound_text(self) -> str:
        """``>= 3.0``, or nothing."""
        sign = {"at least": ">=", "at most": "<=", "no bound": ""}[self.sense]
        return "" if self.bound is None else f"{sign} {self.bound:g}"


@dataclass(frozen=True)
class Outcome:
    """A target with its measured ratio: of the medians, and of each round."""

    target: Target
    ratio: float | None
    """None: not measured."""
    rounds: list[float]
    met: bool | None
    """None: not measured, or no bound."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """What the table says at the end of the line."""
        if self.ratio is None:
            return "not measured"
        return {True: "met", False: "NOT MET", None: ""}[self.met]

    def as_json(self) -> dict[str, Any]:
        """The outcome as the report has it."""
        extremes = {"min": min(self.rounds), "max": max(self.rounds)} if self.rounds else {}
        return {
            "name": self.target.name, "bound": self.target.bound_text, "ratio": self.ratio,
            **extremes, "rounds": self.rounds, "met": self.met, "note": self.note,
        }  # fmt: skip


def _targets() -> list[Target]:
    speed = "images_per_second"
    job = ("speed", "batch 64", "job", speed)
    return [
        Target(
            "images/s at batch 64, job / seed loop",
            job, ("speed", "batch 64", "seed_loop", speed), "at least", 3.0,
        ),
        Target(
            "images/s at batch 64, job / Accelerate loop",
            job, ("speed", "batch 64", "accelerate_loop", speed), "at least", 2.5,
        ),
        *(
            Target(
                f"images/s at batch {size}, job / bare loop",
                ("speed", f"batch {size}", "job", speed),
                ("speed", f"batch {size}", "bare_loop", speed), "at least", 0.95,
            )
            for size in BATCH_SIZES
        ),
        Target(
            "images/s at batch 256, 2 processes / 1, strong",
            ("scaling", "fixed, strong", "2 processes", speed),
            ("scaling", "fixed, strong", "1 process", speed), "at least", 1.7,
        ),
        *(
            Target(
                f"seconds to 99.0% test, {what}, seed loop / job",
                ("time_to_accuracy", "99.0% test", "seed_loop_to_accuracy", figure),
                ("time_to_accuracy", "99.0% test", "job", figure), "at least", 8.0,
            )
            for what, figure in (
                ("training alone", "train_seconds"), ("start to exit", "total_seconds")
            )
        ),
        Target(
            "seconds from start to first step, job / import torch, accelerate",
            ("start", "first step", "job", "first_step_seconds"),
            ("start", "first step", "imports", "first_step_seconds"), "at most", 1.5,
        ),
        *(
            Target(
                f"seconds at batch {size} on {processes}, fixed / ddp",
                ("reduction", f"batch {size}, {processes}", "fixed", "train_seconds"),
                ("reduction", f"batch {size}, {processes}", "ddp", "train_seconds"),
                "at most", 1.1 if (size, processes) == (64, "1 process") else 1.0,
            )
            for size in BATCH_SIZES for processes in ("1 process", "2 processes")
        ),
        *(
            Target(
                f"images/s at batch 256 on {processes}, audited / not",
                ("audit", f"batch 256, {processes}", "audited", speed),
                ("audit", f"batch 256, {processes}", "not audited", speed), "at least", 0.99,
            )
            for processes in ("1 process", "2 processes")
        ),
        *(
            Target(
                f"images/s at batch {size}, job / arithmetic limit",
                ("speed", f"batch {size}", "job", speed),
                ("speed", "any batch", "arithmetic_limit", speed), "no bound",
            )
            for size in BATCH_SIZES
        ),
    ]  # fmt: skip


TARGETS = _targets()


def judge(groups: Groups, target: Target) -> Outcome:
    """A target against what was measured."""
    over, under = (entry_at(groups, figure) for figure in (target.over, target.under))
    if over is None or under is None:
        return Outcome(target, None, [], None)
    a, b = over[target.over[3]], under[target.under[3]]
    ratio = a["median"] / b["median"]
    rounds = [x / y for x, y in zip(a["rounds"], b["rounds"], strict=True)]
    met = None
    if target.bound is not None:
        met = ratio >= target.bound if target.sense == "at least" else ratio <= target.bound
    if target.over[0] != "time_to_accuracy":
        return Outcome(target, ratio, rounds, met)
    # A time to an accuracy counts only if the accuracy was reached.
    theirs, ours = over["accuracy"]["min"], under["accuracy"]["min"]
    note = f"job {ours:.2%}, seed loop {theirs:.2%}"
    if theirs < ACCURACY:
        note += ", not reached in time: its seconds are a lower bound"
    return Outcome(target, ratio, rounds, met and ours >= ACCURACY, note)
