"""A job that waits no time at all for its next audit: what test_audit starts."""

from __future__ import annotations

from typing import Any

from lenet_dist import train
from lenet_dist.train import audit


def main(arguments: list[str]) -> None:
    """Train as asked, and say which steps are audited."""
    audit._LONGEST_SECONDS = 0
    compare = audit.Audit.compare_sums

    def and_say(self: audit.Audit, step: int, *what: Any) -> None:
        compare(self, step, *what)
        print("audited step", step + 1)

    audit.Audit.compare_sums = and_say  # type: ignore[method-assign]
    train.main(arguments)
