"""Sweeps on the loopback's W&B server: what `wandb sweep` and `wandb agent` ask of it.

A test chooses the values of the trials, where W&B would search for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.wandb_server import WandbServer


@dataclass
class StoredSweep:
    """A sweep as the server has it: its YAML, and the trials that no agent has yet."""

    config: str
    waiting: list[dict[str, Any]] = field(default_factory=list)
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those that an agent has got, by run."""
    heartbeats: list[dict[str, Any]] = field(default_factory=list)
    """The runs that the agents said they had, at each heartbeat."""

    def add(self, run: str, values: dict[str, Any]) -> None:
        """Have an agent run a trial of these values."""
        args = {name: {"value": value} for name, value in values.items()}
        program = "lenet_dist/train/__main__.py"
        self.waiting.append({"type": "run", "run_id": run, "args": args, "program": program})

    def next_command(self) -> dict[str, Any]:
        """What an agent that has nothing to do is told."""
        if not self.waiting:
            return {"type": "exit"}
        self.given[self.waiting[0]["run_id"]] = self.waiting[0]
        return self.waiting.pop(0)

    def give_again(self, run: str) -> None:
        """Have the next agent that asks go on with a trial that was preempted."""
        self.waiting.insert(0, self.given[run] | {"type": "resume"})


def _upsert_sweep(server: WandbServer, asked: dict[str, Any]) -> Any:
    name = f"sweep{len(server.sweeps)}"
    server.sweeps[name] = StoredSweep(asked["config"])
    project = {"name": asked["projectName"], "entity": {"name": "team"}}
    sweep = {"name": name, "project": project}
    return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}


def _sweep(server: WandbServer, asked: dict[str, Any]) -> Any:
    sweep = server.sweeps[asked["sweep"]]
    facts = {"id": asked["sweep"], "name": asked["sweep"], "state": "RUNNING"}
    return {"project": {"sweep": facts | {"config": sweep.config, "runs": {"edges": []}}}}


def _create_agent(server: WandbServer, asked: dict[str, Any]) -> Any:
    return {"createAgent": {"agent": {"id": asked["sweep"]}}}


def _heartbeat(server: WandbServer, asked: dict[str, Any]) -> Any:
    sweep, running = server.sweeps[asked["id"]], json.loads(asked["runState"])
    sweep.heartbeats.append(running)
    commands = [] if running else [sweep.next_command()]
    return {"agentHeartbeat": {"agent": {"id": asked["id"]}, "commands": json.dumps(commands)}}


ANSWERS = {
    "UpsertSweep": _upsert_sweep,
    "SweepWithRuns": _sweep,
    "CreateAgent": _create_agent,
    "Heartbeat": _heartbeat,
}
