"""Several runs side by side: grouped by config, apart from the seed, with the spread over seeds."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass
from typing import Any

from lenet_dist.config import deciding
from lenet_dist.run_dir.reader import Result, Run


@dataclass(frozen=True)
class Group:
    """The runs of one config, whatever their seeds, in the order given."""

    name: str
    runs: list[Run]
    differences: dict[str, Any]
    """The keys in which the groups differ, with this group's values."""

    @property
    def results(self) -> dict[int, list[Result]]:
        """The complete results, by seed."""
        by_seed: dict[int, list[Result]] = {}
        for run in self.runs:
            if run.result:
                by_seed.setdefault(run.config.seed, []).append(run.result)
        return by_seed

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy, one per seed: the same run made twice is not a second sample."""
        return [results[0].test.accuracy for results in self.results.values()]

    @property
    def mean(self) -> float | None:
        """The mean of the seeds' accuracies; None if no run is complete."""
        return statistics.mean(self.accuracies) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def repeated(self) -> list[tuple[int, int, bool]]:
        """For each seed that ran more than once: seed, runs, and whether all gave the same bits."""
        return [
            (seed, len(results), len({result.weights_sha256 for result in results}) == 1)
            for seed, results in self.results.items()
            if len(results) > 1
        ]

    def __str__(self) -> str:
        """What sets the group apart."""
        differences = [f"{key}={as_argument(value)}" for key, value in self.differences.items()]
        return ", ".join(differences) or "the only config"


def group(runs: list[Run]) -> list[Group]:
    """The runs by config, in the order in which the configs first appear."""
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        by_config.setdefault(json.dumps(_recipe(run)), []).append(run)
    recipes = [json.loads(recipe) for recipe in by_config]
    differing = [key for key in recipes[0] if any(r[key] != recipes[0][key] for r in recipes)]
    return [
        Group(f"{number}", members, {key: recipe[key] for key in differing})
        for number, (members, recipe) in enumerate(zip(by_config.values(), recipes, strict=True), 1)
    ]


def as_argument(value: Any) -> str:
    """A config's value as key=value takes it, on one line."""
    is_word = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return value if is_word and value.lower() != "null" else json.dumps(value, ensure_ascii=False)


def _recipe(run: Run) -> dict[str, Any]:
    """The keys that decide the result, apart from the seed."""
    keys = deciding(run.config)
    return {key: value for key, value in keys.items() if not key.startswith(("seed", "log."))}
