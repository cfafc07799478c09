"""Where a process runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where to find a process: its host, by SLURM's name for it if SLURM runs it, and the CPU's
    model or the GPU's with its UUID."""

    rank: int
    host: str
    device: str

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} ({self.device})"
