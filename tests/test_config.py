"""The schema: which keys decide a run, and how it is written, hashed and explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from lenet_dist.config import Key, config_hash, describe_keys, keys, to_yaml, value_of
from lenet_dist.request import load

KEYS = {key.name: key for key in keys()}


def candidates(key: Key) -> list[Any]:
    """Values that the key takes, one of which is not its default."""
    choices = [choice for choice in flat_choices(key.type) if choice != "auto"]
    if choices and all(isinstance(choice, str) for choice in choices):
        return choices
    if key.type is bool or bool in get_args(key.type):
        return [True, False]
    if key.type is float:
        return [0.25, 0.75]
    if key.type in (int, int | None) or "auto" in flat_choices(key.type):
        return [3, 4]
    return [["other"]] if isinstance(key.default, list) else ["other"]


def flat_choices(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in flat_choices(part)]


DECIDES_NOTHING = (
    {"data.root", "data.download", "compute.threads", "compute.timeout_seconds", "log.report"}
    | {"compute.audit_every", "compute.kernels", "train.shards_at_once"}
    | {"run.name", "run.root", "run.resume", "run.inexact"}
    | {"checkpoint.every_steps", "checkpoint.every_seconds", "checkpoint.keep"}
    | {"wandb.mode", "wandb.project", "wandb.entity", "wandb.group", "wandb.tags", "log.trackers"}
)


def test_the_keys_that_decide_nothing_are_all_of_these_sections() -> None:
    sections = ("run.", "checkpoint.", "wandb.")
    of_sections = {name for name in KEYS if name.startswith(sections)}
    assert of_sections - {"run.from"} <= DECIDES_NOTHING <= KEYS.keys()


@pytest.mark.parametrize("name", KEYS)
def test_a_key_survives_yaml_and_the_hash_depends_on_it_if_it_decides_weights_or_metrics(
    tmp_path: Path, name: str
) -> None:
    other = next(value for value in candidates(KEYS[name]) if value != KEYS[name].default)
    changed = load(None, [f"{name}={json.dumps(other, ensure_ascii=False)}"])
    assert value_of(changed, name) != KEYS[name].default
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(changed), encoding="utf-8")
    assert load(file) == changed
    assert (config_hash(changed) == config_hash(load())) == (name in DECIDES_NOTHING)


def test_a_graph_where_it_can_be_is_for_the_hash_what_none_was_before_there_was_auto() -> None:
    hashes = {
        value: config_hash(load(None, [f"compute.cuda_graph={value}"]))
        for value in ("auto", "false", "true")
    }
    assert load().compute.cuda_graph == "auto"
    assert hashes["auto"] == hashes["false"] != hashes["true"]


def test_the_weights_that_a_run_begins_with_decide_by_their_hash_and_not_by_their_path() -> None:
    without = config_hash(load())
    assert without.startswith("7a12ad0b23e4b6a1"), "as before there was run.from"
    one, moved, other = (
        config_hash(load(None, [f"run.from={source}"]))
        for source in ("a@sha256:01", "b@sha256:01", "a@sha256:02")
    )
    assert one == moved and len({without, one, other}) == 3


def test_help_has_every_key_with_type_default_and_meaning() -> None:
    lines = describe_keys().splitlines()
    assert len(lines) == 2 * len(KEYS)
    for key, first, second in zip(KEYS.values(), lines[::2], lines[1::2], strict=True):
        assert first.split() == [key.name, *key.help.split()] and key.help
        assert (
            second.strip()
            == f"({' or '.join(key.alternatives)}; default {json.dumps(key.default)})"
        )


def test_help_says_types_as_a_user_would() -> None:
    shown = describe_keys()
    for kind in ("int", "int or null", "int or auto", "no or bf16 or fp16", "list"):
        assert f" ({kind}; default " in shown
