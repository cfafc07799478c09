"""Shards computed a second time by another process, and compared bit for bit.

A processor that computes wrong does not say so. Here any process can compute any other's shard and
must get the same bits, so one that gets others is found and named. How often processors do that:
Hochschild et al., "Cores that don't count", HotOS 2021.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from lenet_dist.data.dataset import Batch
from lenet_dist.exits import RunFailed
from lenet_dist.machine.place import Place
from lenet_dist.plan import Plan
from lenet_dist.processes.accelerator import on_main, place_of
from lenet_dist.run import checkpoint as checkpoints
from lenet_dist.training.gradient import ByShards
from lenet_dist.training.step import TrainStep
from lenet_dist.training.stopwatch import TakeStep
from lenet_dist.training.verdict import Verdict, judge
from lenet_dist.training.window import StepStats


class Pair(NamedTuple):
    """The process whose shard is computed again, and which of its shards."""

    owner: int
    shard: int


def pairs(dealt: Sequence[range], number: int) -> list[Pair]:
    """What each rank audits in audit `number` (from 0), given the shards of each rank.

    Rank r audits rank r + 1, next time r + 2, and so on: all pairs meet within world size - 1
    audits. Then each owner's next shard is taken. A process alone audits itself.
    """
    world_size = len(dealt)
    owners = [rank for rank, shards in enumerate(dealt) if shards]
    rounds, turn = divmod(number, max(world_size - 1, 1))
    found = []
    for rank in range(world_size):
        others = [owner for owner in owners if owner != rank] or owners
        owner = (rank + 1 + turn) % world_size
        if owner not in others:
            owner = others[(rank + turn) % len(others)]
        found.append(Pair(owner, dealt[owner][rounds % len(dealt[owner])]))
    return found


class Audit:
    """Compares what the processes of a run compute. Each comparison is a collective.

    `shard_of` gives the samples of a step's shard, by the numbers of both (from 0).
    """

    def __init__(
        self,
        train_step: TrainStep,
        plan: Plan,
        accelerator: Accelerator,
        checkpoints: Path,
        shard_of: Callable[[int, int], Batch],
    ) -> None:
        self.train_step = train_step
        self.plan = plan
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.shard_of = shard_of
        compute, is_on_cpu = plan.config.compute, accelerator.device.type == "cpu"
        # A GPU's nondeterministic kernels may give other bits each time.
        self.every = compute.audit_every if compute.deterministic or is_on_cpu else 0
        self.sound_step = 0
        """Steps done at the last audit that found nothing, or when this start began."""
        self.equal_step = 0
        """The same of the last comparison of weights."""

    def compare_weights(self, step: int) -> None:
        """Check that all processes have the same weights, and running mean, after `step` steps.

        Raises RunFailed, on every process, naming those that don't.
        """
        average = self.train_step.average
        means = average.means.values() if average else ()
        weights = torch.cat([_on_cpu(part).flatten() for part in (self.train_step.weights, *means)])
        if len(set(gather_object([_digest(weights)]))) > 1:
            claims = gather_object([[weights]])
            self._fail(f"the weights after step {step}", claims, self.equal_step)
        self.equal_step = step

    def audited(self, take_step: TakeStep, *, is_captured: bool) -> TakeStep:
        """The same step, audited every ``compute.audit_every`` steps.

        `is_captured`: it is a graph, which keeps its rows to itself. Raises RunFailed, on every
        process, naming those that computed other bits.
        """

        def take(batch: Any, step: int) -> StepStats:
            if (step + 1) % self.every:
                return take_step(batch, step)
            self.compare_weights(step)
            stats = self._take(take_step, batch, step, is_captured)
            self.sound_step = step + 1
            return stats

        return take if self.every else take_step

    def _take(self, take_step: TakeStep, batch: Any, step: int, is_captured: bool) -> StepStats:
        gradient = self.train_step.gradient
        if not isinstance(gradient, ByShards):  # DDP's own all-reduce has no shards.
            return take_step(batch, step)
        all_pairs = pairs(self.plan.dealt, (step + 1) // self.every - 1)
        rank = self.accelerator.process_index
        own = {pair.owner: pair.shard for pair in all_pairs}.get(rank)
        weights = self.train_step.weights.detach().clone()
        scale = self.train_step.scaler.state_dict()  # Under fp16 the step may change it.
        self.train_step.set_numbers(step)
        theirs = self._row(step, all_pairs[rank].shard)
        if is_captured:
            # A graph keeps its rows to itself, so this process computes its own once more.
            mine = None if own is None else self._row(step, own)
            stats = take_step(batch, step)
        else:
            with gradient.watching(own) as watched:
                stats = take_step(batch, step)
            mine = _on_cpu(watched[0]) if watched else None
        said = gather_object([(_digest(theirs), None if mine is None else _digest(mine))])
        for auditor, pair in enumerate(all_pairs):
            if said[auditor][0] != said[pair.owner][1]:
                self.train_step.weights.data.copy_(weights)
                self.train_step.scaler.load_state_dict(scale)
                claims = [theirs] if all_pairs[rank] == pair else []
                claims += [mine] if rank == pair.owner and mine is not None else []
                claims.append(self._row(step, pair.shard))
                what = f"shard {pair.shard} of step {step + 1}"
                self._fail(what, gather_object([claims]), self.sound_step)
        return stats

    def _row(self, step: int, shard: int) -> Tensor:
        gradient = self.train_step.gradient
        assert isinstance(gradient, ByShards)
        return _on_cpu(gradient.row_of(self.shard_of(step, shard), self.train_step.inputs_of))

    def _fail(self, what: str, claims: list[list[Tensor]], trusted_step: int) -> NoReturn:
        verdict = judge(claims)
        places = gather_object([place_of(self.accelerator)])
        newest = on_main(
            self.accelerator,
            lambda: checkpoints.set_aside_after(self.checkpoints, trusted_step),
        )
        raise RunFailed(_message(what, verdict, places, newest))


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


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float32, copy=True)


def _digest(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
