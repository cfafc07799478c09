"""What one process of a job is, sees and can do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lenet_dist.system import DECIDE_BITS, kernel_variables

DATA = "data (SHA-256)"

_OF_NETWORK = ("NCCL_", "TORCH_NCCL_", "GLOO_")


@dataclass(frozen=True)
class Rank:
    """One process's account of itself. None: not measured here, absent, or failed.

    Memory in bytes, rates in 10^9 operations or 10^6 bytes a second, times in milliseconds.
    """

    rank: int
    host: str
    local_rank: int
    device: str
    driver: str | None
    memory_free: int
    memory_total: int
    host_memory_free: int
    cores: int
    threads: int
    kernels: str
    """The native kernel's variant; torch where there is none."""
    versions: dict[str, str | None]
    git_commit: str | None
    config_hash: str
    data_sha256: str | None
    run_root: str
    environment: dict[str, str]
    gigaflops: float
    link_mb_s: float | None
    write_mb_s: float | None
    rename_ms: float | None
    clock_ms: float
    """Ahead of rank 0's clock."""
    clock_error_ms: float
    weights_sha256: str = ""
    """Of the weights that it gets when it trains alone."""
    repeats: bool = True
    """Whether it gets the same weights a second time."""
    failures: dict[str, str] = field(default_factory=dict)
    """What could not be measured here, and why."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def computes_by(self) -> dict[str, object]:
        """What decides the bits that a rank computes, by name."""
        return {
            "device": self.device,
            "driver": self.driver,
            "threads": self.threads,
            "kernels": self.kernels,
            **{f"version of {name}": self.versions.get(name) for name in DECIDE_BITS},
            **{n: v for n, v in self.environment.items() if not n.startswith(_OF_NETWORK)},
        }

    def facts(self) -> dict[str, object]:
        """What must be the same on every rank, by name."""
        return {
            "device": self.device,
            "driver": self.driver,
            # Machines' memory differs by what their firmware keeps; GPUs' does not.
            "device memory (bytes)": self.memory_total if self.driver else None,
            "cores": self.cores,
            "threads": self.threads,
            "kernels": self.kernels,
            **{f"version of {name}": version for name, version in self.versions.items()},
            "git commit": self.git_commit,
            "config (hash)": self.config_hash,
            DATA: self.data_sha256,
            **self.environment,
        }


def environment() -> dict[str, str]:
    """The variables that tell the network's libraries and those of the kernels what to do."""
    of_network = (name for name in sorted(os.environ) if name.startswith(_OF_NETWORK))
    return {name: os.environ[name] for name in of_network} | kernel_variables()
