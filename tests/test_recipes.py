"""The recipes in configs/: each runs by the command it opens with, and says what it promises."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lenet_dist import train
from lenet_dist.config import Wandb, to_yaml, value_of
from lenet_dist.plan import validate
from lenet_dist.request import load

ROOT = Path(__file__).parents[1]
CONFIGS = {path.name: path for path in (ROOT / "configs").glob("*.yaml")}
SWEEP = CONFIGS.pop("sweep.yaml")


def test_these_configs_ship() -> None:
    assert CONFIGS.keys() == {"best.yaml", "default.yaml", "fast.yaml", "seed.yaml", "smoke.yaml"}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_that_ships_opens_with_the_command_that_runs_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opening = re.match(r"(#.*\n)+", CONFIGS[name].read_text())
    assert opening, "no comment at its top"
    command = re.search(r"^#\s+(accelerate launch -m lenet_dist\.train.*)$", opening[0], re.M)
    assert command, "no command in it"
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command[1])[4:]
    train.main([*arguments, "--print-config"])
    assert capsys.readouterr().out == to_yaml(load(CONFIGS[name]))
    validate(load(CONFIGS[name]), 1)


def test_default_yaml_says_what_the_schema_says() -> None:
    assert load(ROOT / "configs" / "default.yaml") == load()


def test_seed_yaml_is_the_recipe_of_the_seed_document() -> None:
    document = [
        "run.name=seed", "data.validation=0", "train.epochs=5", "train.batch_size=64",
        "train.shards=8", "train.clip_norm=0", "train.label_smoothing=0", "train.ema_decay=0",
        "optimizer.name=adam", "optimizer.lr=0.001", "optimizer.weight_decay=0",
        "schedule.name=constant", "schedule.warmup=0", "augment.rotate=0", "augment.translate=0",
        "augment.scale=0", "augment.shear=0",
    ]  # fmt: skip
    assert load(ROOT / "configs" / "seed.yaml") == load(None, document)


def test_seed_yaml_takes_the_steps_of_the_seed_document() -> None:
    """60,000 images in batches of 64, the last one dropped, five times."""
    plan = validate(load(ROOT / "configs" / "seed.yaml"), 1)
    assert plan.steps_per_epoch == 937
    assert plan.total_steps == 5 * 937


def test_sweep_yaml_searches_around_the_default_recipe() -> None:
    sweep = yaml.safe_load(SWEEP.read_text())
    assert sweep["metric"] == {"name": "validation/accuracy", "goal": "maximize"}
    assert "configs/default.yaml" in sweep["command"] and sweep["project"] == Wandb().project
    for key, range_of in sweep["parameters"].items():
        low, high = (
            load(ROOT / "configs" / "default.yaml", [f"{key}={range_of[end]}"])
            for end in ("min", "max")
        )
        assert value_of(low, key) <= value_of(load(), key) <= value_of(high, key)


def test_smoke_yaml_needs_no_network() -> None:
    assert load(ROOT / "configs" / "smoke.yaml").data.name == "synthetic"
