"""Jobs of which one thing is otherwise, as on a machine that differs: `module="tests.altered:..."`.

Each trains as asked, but for that.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any, NoReturn

import torch

from lenet_dist import export, preflight, train
from lenet_dist.kernels import build
from lenet_dist.train import local_sums, shard_gradients, trainer, tree_allreduce

STEP = 12
STRIKE, STRIKE_AVERAGE = signal.SIGWINCH, signal.SIGURG
"""Of a struck job; a process that is not struck ignores them."""


def export_with_little_room(arguments: list[str]) -> None:
    """No file may grow beyond 100 KiB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, 100 << 10))
    export.main(arguments)


def failing(arguments: list[str]) -> None:
    """Its first step fails, whenever it is started."""

    def fail(*what: object) -> NoReturn:
        raise RuntimeError("gloo and behold: this loss was never written")

    trainer.Trainer.train_step = fail  # type: ignore[method-assign]
    train.main(arguments)


def faulty(arguments: list[str]) -> None:
    """On rank 1, the first sum of step number STEP (from 0) is not finite, once."""
    compute = local_sums.LocalSums.__call__
    struck = []

    def once_wrong(self: Any, batch: Any, shards: range, step: int, numbers: Any) -> Any:
        sums = compute(self, batch, shards, step, numbers)
        if os.environ.get("RANK") == "1" and step == STEP and not struck:
            struck.append(step)
            sums[0][1][0] = torch.nan
        return sums

    local_sums.LocalSums.__call__ = once_wrong  # type: ignore[method-assign]
    train.main(arguments)


def many_in_other_bits(arguments: list[str]) -> None:
    """Its kernels compute four shards and more at once in other bits than few."""
    compute = shard_gradients.ManyAtOnce.__call__

    def rows(
        self: shard_gradients.ManyAtOnce, pixels: Any, labels: Any, shards: range, step: int
    ) -> torch.Tensor:
        few = compute(self, pixels, labels, shards, step)
        return few if len(shards) < 4 else few * (1 + 2**-22)

    shard_gradients.ManyAtOnce.__call__ = rows  # type: ignore[method-assign]
    train.main(arguments)


def sliced(arguments: list[str]) -> None:
    """Each process adds a slice of the sum, as many with a large model would, and says so."""
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


def struck(arguments: list[str]) -> None:
    """One weight, or one value of the weights' moving average, changes a little at a signal."""
    init = trainer.Trainer.__init__

    def and_listen(self: trainer.Trainer, *parts: Any) -> None:
        init(self, *parts)
        # Through `data`, autograd does not notice it, as it does not notice a fault of the memory.
        bias = next(self.state.model.parameters()).data.view(-1)
        assert self.state.ema
        mean = self.state.ema.mean
        signal.signal(STRIKE, lambda *_: bias[0].add_(1e-6))
        signal.signal(STRIKE_AVERAGE, lambda *_: mean[0].add_(1e-6))

    trainer.Trainer.__init__ = and_listen  # type: ignore[method-assign]
    train.main(arguments)


def through_tcp(arguments: list[str]) -> None:
    """Its processes share no memory, as on two machines, and say how rows are gathered."""
    del os.memfd_create
    choose_gather = trainer.choose_gather

    def and_say(*how: object) -> object:
        gather = choose_gather(*how)  # type: ignore[arg-type]
        print("through Accelerate" if "Accelerator" in repr(gather) else "through memory")
        return gather

    trainer.choose_gather = and_say  # type: ignore[assignment]
    train.main(arguments)


def without_kernel(arguments: list[str]) -> None:
    """No kernel was compiled, where the variable WITHOUT_KERNEL is set."""
    if os.environ.get("WITHOUT_KERNEL"):
        build.FOLDER = Path("/nowhere")
        build.library = lambda variant, folder=build.FOLDER: folder / f"{variant}.so"
    train.main(arguments)


def without_folder_renames(arguments: list[str]) -> None:
    """The preflight where only files can be renamed."""
    rename = os.rename

    def refuse_folders(old: str, new: str) -> None:
        if Path(old).is_dir():
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        rename(old, new)

    os.rename = refuse_folders  # type: ignore[assignment]
    preflight.main(arguments)
