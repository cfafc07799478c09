"""How fast the processes talk to each other. Every function here is a collective."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, distributed

from lenet_dist.distributed.accelerator import meet
from lenet_dist.model import lenet5
from lenet_dist.preflight.device import wait_for

_CALLS_SECONDS = 0.1
_LONG_CALL_SECONDS = 0.1
_FEWEST_CALLS, _MOST_CALLS = 3, 200
_LINK_BYTES = {"cpu": 8 * 10**6, "cuda": 64 * 10**6}
_LINK_ROUNDS = 3
_LINK_EXCHANGES = 5
_MESSAGE_BYTES = (4, 4 * 2**10, lenet5.PARAMETERS * 4, 2**20, 16 * 2**20, 64 * 2**20)
"""Sizes of the all-reduces that are measured, ascending, the model's gradient among them."""


@dataclass(frozen=True)
class AllReduce:
    """An all-reduce of messages of one size.

    `median_us`, `slowest_us`: microseconds per call, of the median process and of the slowest; a
    process's own figure is the median of its calls. `algorithm_mb_s`: bytes over the median time,
    in 10^6 per second. `bus_mb_s`: that times 2(W-1)/W, which is what a ring of W processes sends
    over each link; compare it with the link's own speed, whatever W is.
    """

    bytes: int
    calls: int
    median_us: float
    slowest_us: float
    algorithm_mb_s: float
    bus_mb_s: float


def all_reduces(accelerator: Accelerator) -> list[AllReduce]:
    """A float32 all-reduce of each size of message; none for one process.

    Once a call takes longer than a tenth of a second, larger sizes are left out.
    """
    world_size, device = accelerator.num_processes, accelerator.device
    measured: list[AllReduce] = []
    for size in _MESSAGE_BYTES if world_size > 1 else ():
        if measured and measured[-1].slowest_us > _LONG_CALL_SECONDS * 1e6:
            break
        message = torch.zeros(size // 4, device=device)
        _seconds(device, distributed.all_reduce, message)
        once = _seconds(device, distributed.all_reduce, message)
        calls = int(_CALLS_SECONDS / max(gather_object([once])))
        calls = min(max(calls, _FEWEST_CALLS), _MOST_CALLS)
        seconds = [_seconds(device, distributed.all_reduce, message) for _ in range(calls)]
        by_rank = gather_object([statistics.median(seconds)])
        median = statistics.median(by_rank)
        speed = size / median / 1e6
        bus = speed * 2 * (world_size - 1) / world_size
        measured.append(AllReduce(size, calls, median * 1e6, max(by_rank) * 1e6, speed, bus))
    return measured


def link_speed(accelerator: Accelerator, hosts: list[str]) -> float | None:
    """MB/s (10^6 bytes) each way, with the best of up to three partners; None without a partner.

    A slow network card is slow with every partner; a good one is slow only with a slow one. If
    there are several hosts, partners are on other hosts: traffic within a host passes no card.
    """
    column = partners(hosts, accelerator.process_index)
    place = column.index(accelerator.process_index)
    size = _LINK_BYTES[accelerator.device.type] // 4
    outgoing = torch.zeros(size, device=accelerator.device)
    incoming = torch.empty_like(outgoing)
    speeds = []
    for turn in range(1, _LINK_ROUNDS + 1):
        meet(accelerator)
        # The choice is mutual: the partner computes this process as its own partner.
        partner = column[(turn - place) % len(column)]
        if partner != accelerator.process_index:
            seconds = [
                _seconds(accelerator.device, _exchange, outgoing, incoming, partner)
                for _ in range(1 + _LINK_EXCHANGES)
            ]
            # The first call to a partner makes the connection.
            speeds.append(outgoing.nbytes / statistics.median(seconds[1:]) / 1e6)
    meet(accelerator)
    return max(speeds, default=None)


def partners(hosts: list[str], rank: int) -> list[int]:
    """The ranks that `rank` exchanges with, itself among them, given the host of every rank.

    On one host these are all ranks; on several, the ranks at the same place on each host.
    """
    if len(set(hosts)) == 1:
        return list(range(len(hosts)))
    places = [hosts[:other].count(host) for other, host in enumerate(hosts)]
    return [other for other, place in enumerate(places) if place == places[rank]]


def _exchange(outgoing: Tensor, incoming: Tensor, partner: int) -> None:
    works = distributed.batch_isend_irecv([
        distributed.P2POp(distributed.isend, outgoing, partner),
        distributed.P2POp(distributed.irecv, incoming, partner),
    ])  # fmt: skip
    for work in works:
        work.wait()


def _seconds(device: torch.device, action: Callable[..., object], *arguments: object) -> float:
    """Wall-clock seconds of a call, on the device too."""
    began = time.perf_counter()
    action(*arguments)
    wait_for(device)
    return time.perf_counter() - began
