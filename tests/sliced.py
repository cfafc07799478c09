"""A job of which each process adds a slice of the sum, as many processes with a large model would:
what test_same_bits starts."""

from __future__ import annotations

from lenet_dist import train
from lenet_dist.train import tree_allreduce


def main(arguments: list[str]) -> None:
    """Train as asked, and say that sums are sliced."""
    tree_allreduce.GATHER_LIMIT = 0
    root = tree_allreduce.TreeAllReduce._root
    shapes = set()

    def noted(self: tree_allreduce.TreeAllReduce, rows: object) -> object:
        assert self.is_sliced
        shapes.add(rows.shape)  # type: ignore[attr-defined]
        return root(self, rows)  # type: ignore[arg-type]

    tree_allreduce.TreeAllReduce._root = noted  # type: ignore[assignment,method-assign]
    train.main(arguments)
    [(world_size, _, width)] = shapes
    assert width == -(-61_708 // world_size)
    print("a slice of the sum")
