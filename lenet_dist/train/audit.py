"""Shards computed a second time by another process, and compared bit for bit.

A processor that computes wrong does not say so. Here any process can compute any other's shards and
must get the same bits, so one that gets others is found and named. How often processors do that:
Hochschild et al., "Cores that don't count", HotOS 2021.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from lenet_dist.data.dataset import Images
from lenet_dist.data.sampler import GlobalBatches
from lenet_dist.distributed.accelerator import on_main, place_of
from lenet_dist.exits import RunFailed
from lenet_dist.kernels import native
from lenet_dist.plan import Plan
from lenet_dist.run_dir.checkpoint import set_aside_after
from lenet_dist.system import Place
from lenet_dist.train.local_sums import LocalSums
from lenet_dist.train.majority_vote import Vote, majority_vote
from lenet_dist.train.metrics import not_finite
from lenet_dist.train.rehearsal import REHEARSED
from lenet_dist.train.state import TrainState
from lenet_dist.train.step_params import StepParams
from lenet_dist.train.tree_allreduce import Sums

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
    """Compares what the processes of a run compute. Each comparison is a collective."""

    def __init__(
        self,
        plan: Plan,
        accelerator: Accelerator,
        state: TrainState,
        local_sums: LocalSums | None,
        images: Images,
        batches: GlobalBatches,
        checkpoints: Path,
        trusted_step: int,
    ) -> None:
        self.plan = plan
        self.accelerator = accelerator
        self.state = state
        self.local_sums = local_sums
        self.images = images
        self.batches = batches
        self.checkpoints = checkpoints
        compute, is_on_cpu = plan.config.compute, accelerator.device.type == "cpu"
        # A GPU's nondeterministic kernels may give other bits each time.
        self.every = compute.audit_every if compute.deterministic or is_on_cpu else 0
        self._number = state.step // self.every if self.every else 0
        """Audits so far, so that other pairs of processes meet each time."""
        self._requested_step: int | None = None
        self._last_time = time.monotonic()
        self.trusted_step = trusted_step
        """Step of the last audit that held, over all starts of the run."""
        self.equal_step = state.step
        """Step at which all ranks' weights were last found equal."""

    def is_due(self, step: int) -> bool:
        """Whether step number `step` (from 0) is audited."""
        if not self.every or step == REHEARSED:
            return False
        return (step + 1) % self.every == 0 or step == self._requested_step

    def recomputes(self, step: int) -> bool:
        """Whether shards of step number `step` (from 0) are computed again."""
        return self.local_sums is not None and self.is_due(step)  # DDP's all-reduce has none.

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
        ema = self.state.ema
        parts = [self.state.flat] + ([ema.mean] if ema else [])
        weights = torch.cat([_on_cpu(part) for part in parts])
        if len(set(gather_object([_digest(weights)]))) > 1:
            results = gather_object([[weights]])
            self._fail(f"the weights after step {step}", results, self.equal_step)
        self.equal_step = step

    def compare_sums(self, step: int, sums: Sums, params: StepParams) -> None:
        """Compute another process's shards of step number `step` (from 0) again, and compare its
        `sums` with what comes out, before the weights change.

        Raises RunFailed, on every process, naming those that computed other bits.
        """
        self._compare_sums(step, self._number, sums, params)
        self.trusted_step = step + 1
        self._number += 1
        self._last_time = time.monotonic()

    def check_finite(
        self, step: int, loss: Tensor, grad_norm: Tensor, sums: Sums, params: StepParams
    ) -> None:
        """Raise RunFailed, on every process, if the loss or the gradient of step number `step`
        (from 0) is not finite. It is audited first, to tell a wrong machine from a wrong recipe.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        self._compare_sums(step, step, sums, params)
        raise RunFailed(
            f"{not_finite(float(loss), float(grad_norm), step + 1)}. Computed again"
            f"{' by another process' if self.accelerator.num_processes > 1 else ''}, it has the"
            " same bits: the recipe is the cause, not a machine"
        )

    def _compare_sums(self, step: int, number: int, sums: Sums, params: StepParams) -> None:
        by_rank = self.plan.shards_by_rank
        owners = audited_ranks(by_rank, number)
        rank = self.accelerator.process_index if self.plan.world_size > 1 else 0
        mine = _joined(sums)
        theirs = self._compute_again(step, by_rank[owners[rank]], params)
        said = gather_object([(_digest(theirs), _digest(mine))])
        for auditor, owner in enumerate(owners):
            if said[auditor][0] != said[owner][1]:
                results = [theirs] if owners[rank] == owner else []
                results += [mine] if rank == owner else []
                results.append(self._compute_again(step, by_rank[owner], params))
                what = f"{_named(by_rank[owner])} of step {step + 1}"
                self._fail(what, gather_object([results]), self.trusted_step)

    def _compute_again(self, step: int, shards: range, params: StepParams) -> Tensor:
        assert self.local_sums  # DDP's own all-reduce has no shards.
        size = self.plan.shard_size
        ids = self.batches.of_step(step)[shards.start * size : shards.stop * size]
        return _joined(self.local_sums(self.images.batch_of(ids), shards, step, params))

    def _fail(self, what: str, results: list[list[Tensor]], trusted_step: int) -> NoReturn:
        vote = majority_vote(results)
        places = gather_object([place_of(self.accelerator)])
        kernels = gather_object([self._kernels()])
        newest = on_main(
            self.accelerator,
            lambda: set_aside_after(self.checkpoints, trusted_step),
        )
        raise RunFailed(_message(what, vote, places, newest) + _differing(kernels))

    def _kernels(self) -> str:
        is_native = self.plan.config.compute.kernels == "native"
        return f"native kernel {native.variant()}" if is_native else "torch"


def _message(what: str, vote: Vote, places: list[Place], newest: Path | None) -> str:
    wrong = "; ".join(str(places[rank]) for rank in vote.wrong)
    hosts = ",".join(dict.fromkeys(places[rank].host for rank in vote.wrong))
    advice = f"Leave that machine out (on SLURM: sbatch --exclude={hosts})"
    if len(places) == 1:
        found = f"{wrong} got different bits each time it computed {what}"
    elif vote.is_certain:
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
        f"{found}: {vote.differing:,} of {vote.size:,} values differ, by up to"
        f" {vote.largest:.3g}. {advice} and run the same command again:"
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
