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


def choose_gather(accelerator: Accelerator, numbers: int, timeout_seconds: int) -> Gather:
    """The fastest all-gather that all processes can use, for up to `numbers` float32 of each. A
    collective.

    It is Accelerate's own if they are not all on one machine's CPUs.
    """
    if accelerator.num_processes == 1 or accelerator.device.type != "cpu":
        return accelerator.gather
    connection = _Connection(accelerator)
    if not all(gather_object([connection.is_made])):
        return accelerator.gather
    rank, world_size = accelerator.process_index, accelerator.num_processes
    memory = connection.share(2 * world_size * numbers * _FLOAT_BYTES)
    if not all(gather_object([memory is not None])):
        return accelerator.gather
    assert memory is not None
    peers = connection.peers
    shared = torch.frombuffer(memory, dtype=torch.float32)
    return SharedMemoryGather(rank, world_size, shared, peers, timeout_seconds).gather


class SharedMemoryGather:
    """All-gather through `memory`, a part for each process, and a socket to each peer that says
    "written"."""

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
        """All-gather `rows` through shared memory. The result is a view that stays valid until the
        second-next call.

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
    """Sockets between all processes of a machine, made in two steps so that none waits in vain.

    A sandbox may refuse any part of it, and only Linux has sockets and memory outside file systems.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Ask each process of a lower rank for a connection. A collective."""
        self.rank = accelerator.process_index
        self.peers: list[socket.socket] = []
        self._higher = accelerator.num_processes - 1 - self.rank
        # A name that begins with a null byte is in no file system, so no file is left behind.
        name = "\0lenet_dist-" + broadcast_object_list([uuid.uuid4().hex])[0]
        self.is_made = hasattr(os, "memfd_create") and self._try(lambda: self._listen(name))
        accelerator.wait_for_everyone()
        self.is_made = self.is_made and self._try(lambda: self._connect(name))

    def share(self, size: int) -> mmap.mmap | None:
        """Memory of `size` bytes that all processes see; None where that is refused."""
        memory: list[mmap.mmap] = []
        self.peers += [self._listener.accept()[0] for _ in range(self._higher)]
        self._listener.close()
        if not self._try(lambda: memory.append(self._mapped(size))):
            for peer in self.peers:
                peer.close()  # Or they would wait for it.
            return None
        return memory[0]

    def _listen(self, name: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{name}-{self.rank}")
        self._listener.listen(max(1, self._higher))

    def _connect(self, name: str) -> None:
        for rank in range(self.rank):
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(f"{name}-{rank}")  # Fails if it is on another machine.
            self.peers.append(peer)

    def _mapped(self, size: int) -> mmap.mmap:
        if self.rank == 0:
            file = os.memfd_create("lenet_dist")
            os.truncate(file, size)
            for peer in self.peers:
                socket.send_fds(peer, [b"."], [file])
        else:
            _, files, _, _ = socket.recv_fds(self.peers[0], 1, 1)
            if not files:
                raise ConnectionError("rank 0 has no memory to share")
            (file,) = files
        memory = mmap.mmap(file, size)
        os.close(file)
        return memory

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except OSError:
            return False
        return True
