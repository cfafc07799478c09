"""Shards computed a second time by another process, and compared bit for bit.

A processor that computes wrong does not say so. Here any process can compute any other's shards and
must get the same bits, so one that gets others is found and named. How often processors do that:
Hochschild et al., "Cores that don't count", HotOS 2021.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from lenet_dist.data.dataset import Batch
from lenet_dist.exits import RunFailed
from lenet_dist.kernels import native
from lenet_dist.machine.place import Place
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import on_main, place_of
from lenet_dist.run import checkpoint as checkpoints
from lenet_dist.training.local_sums import LocalSums, StepNumbers
from lenet_dist.training.state import TrainState
from lenet_dist.training.tree_allreduce import Sums
from lenet_dist.training.verdict import Verdict, judge
from lenet_dist.training.window import not_finite

_LONGEST_SECONDS = 300
"""Between two audits: a step takes twice its time while it is audited."""


def audited_ranks(shards_by_rank: Sequence[range], number: int) -> list[int]:
    """Whose shards each rank computes again in audit `number` (from 0), by rank.

    Rank r audits rank r + 1, next time r + 2, and so on: all pairs meet within world size - 1
    audits. A process alone audits itself.
    """
    world_size = len(shards_by_rank)
    owners = [rank for rank, shards in enumerate(shards_by_rank) if shards]
    turn = number % max(world_size - 1, 1)
    found = []
    for rank in range(world_size):
        others = [owner for owner in owners if owner != rank] or owners
        owner = (rank + 1 + turn) % world_size
        found.append(owner if owner in others else others[(rank + turn) % len(others)])
    return found


class Audit:
    """Compares what the processes of a run compute. Each comparison is a collective.

    `samples_of` gives the samples of consecutive shards of a step's global batch.
    """

    def __init__(
        self,
        plan: Plan,
        accelerator: Accelerator,
        state: TrainState,
        local_sums: LocalSums | None,
        samples_of: Callable[[int, range], Batch],
        checkpoints: Path,
    ) -> None:
        self.plan = plan
        self.accelerator = accelerator
        self.state = state
        self.local_sums = local_sums
        self.samples_of = samples_of
        self.checkpoints = checkpoints
        compute, is_on_cpu = plan.config.compute, accelerator.device.type == "cpu"
        # A GPU's nondeterministic kernels may give other bits each time.
        self.every = compute.audit_every if compute.deterministic or is_on_cpu else 0
        self._number = state.step // self.every if self.every else 0
        """Audits so far, so that other pairs of processes meet each time."""
        self._requested_step: int | None = None
        self._last_time = time.monotonic()
        self.trusted_step = 0
        """Step of the last audit that held, over all starts of the run."""
        self.equal_step = state.step
        """Step at which all ranks' weights were last found equal."""

    def is_due(self, step: int) -> bool:
        """Whether step number `step` (from 0) is audited."""
        if not self.every:
            return False
        return (step + 1) % self.every == 0 or step == self._requested_step

    def is_overdue(self) -> bool:
        """Whether this process has waited long for an audit, because its steps are slow."""
        return self.every > 0 and time.monotonic() - self._last_time > _LONGEST_SECONDS

    def request(self, step: int) -> None:
        """Audit step number `step` (from 0) too. All processes must ask for it."""
        self._requested_step = step

    def compare_weights(self, step: int) -> None:
        """Check that all processes have the same weights, and moving average, after `step` steps.

        Raises RunFailed, on every process, naming those that don't.
        """
        average = self.state.average
        parts = [self.state.flat] + ([average.mean] if average else [])
        weights = torch.cat([_on_cpu(part) for part in parts])
        if len(set(gather_object([_digest(weights)]))) > 1:
            claims = gather_object([[weights]])
            self._fail(f"the weights after step {step}", claims, self.equal_step)
        self.equal_step = step

    def compare_sums(self, step: int, sums: Sums, numbers: StepNumbers) -> None:
        """Compute another process's shards of step number `step` (from 0) again, and compare its
        `sums` with what comes out, before the weights change.

        Raises RunFailed, on every process, naming those that computed other bits.
        """
        self._compare_sums(step, self._number, sums, numbers)
        self.trusted_step = step + 1
        self._number += 1
        self._last_time = time.monotonic()

    def check_finite(
        self, step: int, loss: float, grad_norm: float, sums: Sums, numbers: StepNumbers
    ) -> None:
        """Raise RunFailed, on every process, if the loss or the gradient of step number `step`
        (from 0) is not finite. It is audited first, to tell a wrong machine from a wrong recipe.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        self._compare_sums(step, step, sums, numbers)
        raise RunFailed(
            f"{not_finite(loss, grad_norm, step + 1)}. Computed again"
            f"{' by another process' if self.accelerator.num_processes > 1 else ''}, it has the"
            " same bits: the recipe is the cause, not a machine"
        )

    def _compare_sums(self, step: int, number: int, sums: Sums, numbers: StepNumbers) -> None:
        by_rank = self.plan.shards_by_rank
        owners = audited_ranks(by_rank, number)
        rank = self.accelerator.process_index if self.plan.world_size > 1 else 0
        mine = _joined(sums)
        theirs = self._compute_again(step, by_rank[owners[rank]], numbers)
        said = gather_object([(_digest(theirs), _digest(mine))])
        for auditor, owner in enumerate(owners):
            if said[auditor][0] != said[owner][1]:
                claims = [theirs] if owners[rank] == owner else []
                claims += [mine] if rank == owner else []
                claims.append(self._compute_again(step, by_rank[owner], numbers))
                what = f"{_named(by_rank[owner])} of step {step + 1}"
                self._fail(what, gather_object([claims]), self.trusted_step)

    def _compute_again(self, step: int, shards: range, numbers: StepNumbers) -> Tensor:
        assert self.local_sums  # DDP's own all-reduce has no shards.
        return _joined(self.local_sums(self.samples_of(step, shards), shards, step, numbers))

    def _fail(self, what: str, claims: list[list[Tensor]], trusted_step: int) -> NoReturn:
        verdict = judge(claims)
        places = gather_object([place_of(self.accelerator)])
        kernels = gather_object([self._kernels()])
        newest = on_main(
            self.accelerator,
            lambda: checkpoints.set_aside_after(self.checkpoints, trusted_step),
        )
        raise RunFailed(_message(what, verdict, places, newest) + _differing(kernels))

    def _kernels(self) -> str:
        is_native = self.plan.config.compute.kernels == "native"
        return f"native kernel {native.variant()}" if is_native else "torch"


def _message(what: str, verdict: Verdict, places: list[Place], newest: Path | None) -> str:
    wrong = "; ".join(str(places[rank]) for rank in verdict.wrong)
    hosts = ",".join(dict.fromkeys(places[rank].host for rank in verdict.wrong))
    advice = f"Leave that machine out (on SLURM: sbatch --exclude={hosts})"
    if len(places) == 1:
        found = f"{wrong} got different bits each time it computed {what}"
    elif verdict.is_certain:
        found = f"{wrong} got different bits in {what} than most of the {len(places)} processes"
    else:
        found = f"{wrong} got different bits in {what}, with no majority to tell who is wrong"
        advice = (
            "Find out which machine is wrong (python -m lenet_dist.preflight on these and a third"
            " one compares them), leave it out (on SLURM: sbatch --exclude=HOST)"
        )
    over = "it starts over, because no checkpoint is older"
    again = f"it resumes from {newest}" if newest else over
    return (
        f"{found}: {verdict.differing:,} of {verdict.size:,} values differ, by up to"
        f" {verdict.largest:.3g}. {advice} and run the same command again:"
        f" {again}. Later checkpoints were renamed to step-*.suspect"
    )


def _differing(kernels: list[str]) -> str:
    """The ranks that compute by each kind of kernels, if there are several kinds."""
    if len(set(kernels)) == 1:
        return ""
    by_rank = ", ".join(f"rank {rank}: {kind}" for rank, kind in enumerate(kernels))
    return f" (they compute by different kernels: {by_rank})"


def _named(shards: range) -> str:
    last = shards.stop - 1
    return f"shard {last}" if len(shards) == 1 else f"shards {shards.start} to {last}"


def _joined(sums: Sums) -> Tensor:
    """All sums [n * width], on the CPU; of no shards, nothing."""
    return torch.cat([torch.zeros(0), *(_on_cpu(total) for _, total in sums)])


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float32, copy=True).flatten()


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
