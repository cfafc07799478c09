"""An evaluation: what a run records of it, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of images: `confusion[label][prediction]` counts, and the loss."""

    confusion: list[list[int]]
    loss: float
    """Mean cross-entropy."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.confusion) for row in self.confusion):
            raise ValueError("confusion: not square")

    @property
    def count(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def correct(self) -> int:
        return sum(row[label] for label, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def per_class_accuracy(self) -> list[float | None]:
        """Share of each label's images that are right; None for a label without images."""
        return [
            row[label] / sum(row) if sum(row) else None for label, row in enumerate(self.confusion)
        ]

    def summary(self) -> dict[str, Any]:
        """The fields of an evaluation in metrics.jsonl and result.json."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "correct": self.correct,
            "count": self.count,
            "per_class_accuracy": self.per_class_accuracy,
            "confusion": self.confusion,
        }
