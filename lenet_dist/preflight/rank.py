"""What one process of a job is, sees and can do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lenet_dist.system import DECIDE_BITS, kernel_variables

DATA = "data (SHA-256)"

_NETWORK_VARIABLES = ("NCCL_", "TORCH_NCCL_", "GLOO_")


@dataclass(frozen=True)
class Rank:
    """One process's report on itself. None: not measured here, absent, or failed.

    Memory in bytes, rates in 10^9 operations or 10^6 bytes a second.
    """

    rank: int
    host: str
    local_rank: int
    device: str
    driver: str | None
    memory_free: int
    memory_total: int
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
    weights_sha256: str = ""
    """SHA-256 of the weights after a short training of this rank alone."""
    repeats: bool = True
    """Whether a second such training gives the same weights."""
    failures: dict[str, str] = field(default_factory=dict)
    """What could not be measured here, and why."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def computes_by(self) -> dict[str, object]:
        """What decides the bits that a rank computes, by name."""
        names = {"device", "driver", "threads", "kernels"}
        names |= {f"version of {name}" for name in DECIDE_BITS}
        names |= {name for name in self.environment if not name.startswith(_NETWORK_VARIABLES)}
        return {name: value for name, value in self.facts().items() if name in names}

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
    """The variables that the network's and the kernels' libraries heed."""
    of_network = (name for name in sorted(os.environ) if name.startswith(_NETWORK_VARIABLES))
    return {name: os.environ[name] for name in of_network} | kernel_variables()
