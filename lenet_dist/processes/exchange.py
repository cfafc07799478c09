"""Gather the rows of all processes, through shared memory if all run on one machine's CPUs.

gloo sends them through the network stack and a thread of its own, which takes the core from the
work. docs/benchmarks says what that costs in a step of a few milliseconds.
"""

from __future__ import annotations

import mmap
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""Takes each process's rows [n, width] and gives those of all [world size * n, width], by rank. A
collective."""

_FLOAT_BYTES = 4


def gather_of(accelerator: Accelerator, numbers: int, timeout_seconds: int) -> Gather:
    """The fastest that all processes can use, for up to `numbers` float32 of each. A collective.

    It is Accelerate's own if they are not all on one machine's CPUs.
    """
    if accelerator.num_processes == 1 or accelerator.device.type != "cpu":
        return accelerator.gather
    connection = _Connection(accelerator)
    if not all(gather_object([connection.is_made])):
        return accelerator.gather
    rank, world_size = accelerator.process_index, accelerator.num_processes
    memory, peers = connection.share(2 * world_size * numbers * _FLOAT_BYTES)
    shared = torch.frombuffer(memory, dtype=torch.float32)
    return Exchange(rank, world_size, shared, peers, timeout_seconds).gather


class Exchange:
    """A part of shared `memory` for each process, and a socket to each peer that says "written"."""

    def __init__(
        self, rank: int, world_size: int, memory: Tensor, peers: list[socket.socket],
        timeout_seconds: int,
    ) -> None:  # fmt: skip
        self._rank = rank
        self._world_size = world_size
        self._halves = memory.view(2, -1)
        self._turn = 0
        self._peers = peers
        self._tries = timeout_seconds
        for peer in peers:
            peer.settimeout(1)  # A try: so a process that is suspended loses no more than one.

    def gather(self, rows: Tensor) -> Tensor:
        """See Gather. The next call but one overwrites the result.

        Raises DistNetworkError if a peer is gone, or silent for too long.
        """
        # The halves alternate: a slower peer may still be reading the other one, but not this one.
        half = self._halves[self._turn]
        self._turn = 1 - self._turn
        parts = half[: self._world_size * rows.numel()].view(self._world_size, *rows.shape)
        parts[self._rank] = rows
        try:
            for peer in self._peers:
                peer.send(b".")
            for peer in self._peers:
                self._wait_for(peer)
        except OSError as error:
            raise torch.distributed.DistNetworkError(f"gathering rows: {error}") from error
        return parts.flatten(0, 1)

    def _wait_for(self, peer: socket.socket) -> None:
        for _ in range(self._tries):
            with suppress(TimeoutError):
                if not peer.recv(1):
                    raise ConnectionError("it closed its socket")
                return
        raise TimeoutError(f"it said nothing for {self._tries} s")


class _Connection:
    """Sockets between all processes of a machine, made in two steps so that none waits in vain."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Ask each process of a lower rank for a connection. A collective."""
        self.rank = accelerator.process_index
        self.higher = accelerator.num_processes - 1 - self.rank
        # A name that begins with a null byte is in no file system, so no file is left behind.
        name = "\0lenet_dist-" + broadcast_object_list([uuid.uuid4().hex])[0]
        self.lower = [socket.socket(socket.AF_UNIX) for _ in range(self.rank)]
        self.listener = socket.socket(socket.AF_UNIX)
        # Only Linux has both sockets and shared memory outside file systems.
        self.is_made = hasattr(os, "memfd_create")
        if self.is_made:
            self.listener.bind(f"{name}-{self.rank}")
            self.listener.listen(max(1, self.higher))
        accelerator.wait_for_everyone()
        try:
            for rank, peer in enumerate(self.lower):
                peer.connect(f"{name}-{rank}")
        except OSError:  # It is on another machine, or can't.
            self.is_made = False

    def share(self, size: int) -> tuple[mmap.mmap, list[socket.socket]]:
        """Memory of `size` bytes that all processes see, and a socket to each other process."""
        peers = [*self.lower, *(self.listener.accept()[0] for _ in range(self.higher))]
        self.listener.close()
        if self.rank == 0:
            file = os.memfd_create("lenet_dist")
            os.truncate(file, size)
            for peer in peers:
                socket.send_fds(peer, [b"."], [file])
        else:
            _, (file,), _, _ = socket.recv_fds(self.lower[0], 1, 1)
        memory = mmap.mmap(file, size)
        os.close(file)
        return memory, peers
