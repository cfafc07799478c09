"""What a request takes from a file and the command line; what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lenet_dist.config import value_of
from lenet_dist.exits import RequestError
from lenet_dist.request import load


def refusal(file: Path | None = None, *overrides: str) -> str:
    """The one message with which a request is refused."""
    with pytest.raises(RequestError) as refused:
        load(file, list(overrides))
    message = str(refused.value)
    assert message.isprintable(), "one line, fit for a terminal"
    return message


def test_a_section_given_at_once_takes_text_and_numbers_as_its_keys_do() -> None:
    assert load(None, ["run={name: 007}"]).run.name == "007"
    assert load(None, ["train={epochs: 10}"]).train.epochs == 10
    with pytest.raises(RequestError, match=r"train\.epochs=010: write the number in decimals"):
        load(None, ["train={epochs: 010}"])


def test_a_file_beats_the_default_and_the_command_line_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  epochs: 3\n  batch_size: 64\n")
    config = load(file, ["train.epochs=4"])
    assert (config.train.epochs, config.train.batch_size, config.train.shards) == (4, 64, 16)
    assert load(file).train.epochs == 3
    assert load().train.epochs == 14


TAKEN = [
    ("compute.precision=no", "no"),
    ("compute.threads=4", 4),
    ("compute.threads=auto", "auto"),
    ("train.max_steps=null", None),
    ("optimizer.lr=1e-3", 0.001),
    ("optimizer.lr=1", 1.0),
    ("data.download=no", False),
    ("seed=9223372036854775807", 2**63 - 1),
    ("wandb.entity=null", None),
    ("run.name=007", "007"),
    ("run.from=runs/a", "runs/a"),
    ("run.from=null", None),
    ("run.name=true", "true"),
    ("run.name='007'", "007"),
    ("data.root=12:30", "12:30"),
    ("wandb.project=2026-11-25", "2026-11-25"),
    ("wandb.group=0x10", "0x10"),
    ("wandb.tags=[007, off, 'a b', 1e3]", ["007", "off", "a b", "1e3"]),
    ("run.root=/tmp/a=b", "/tmp/a=b"),
]


@pytest.mark.parametrize(("override", "value"), TAKEN)
def test_a_good_value_is_taken_from_the_command_line_and_from_a_file(
    tmp_path: Path, override: str, value: Any
) -> None:
    name, _, text = override.partition("=")
    section, _, leaf = name.rpartition(".")
    file = tmp_path / "c.yaml"
    file.write_text(f"{section}:\n  {leaf}: {text}\n" if section else f"{leaf}: {text}\n")
    for config in (load(None, [override]), load(file)):
        taken = value_of(config, name)
        assert taken == value and type(taken) is type(value)


@pytest.mark.parametrize("text", ["a: b", "a #b", "[a", "*a"])
def test_a_text_on_the_command_line_is_taken_as_it_was_typed(text: str) -> None:
    assert load(None, [f"data.root={text}"]).data.root == text


@pytest.mark.parametrize("key", ["run.root", "data.root"])
def test_a_home_folder_and_variables_in_a_path_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    file = tmp_path / "c.yaml"
    for typed, meant in (("~/x", "/home/of/me/x"), ("$SCRATCH/x", "/scratch/me/x"), ("x~", "x~")):
        file.write_text(f"{key.replace('.', ': {')}: {typed}}}\n")
        for config in (load(None, [f"{key}={typed}"]), load(file)):
            assert value_of(config, key) == meant


REFUSED = [
    # Not a key.
    ("nosuch.epochs=1", "nosuch"),
    ("train.epoch=3", "'epochs'"),
    ("train.epochs.x=3", "train.epochs"),
    ("lr=3", "optimizer.lr"),
    # Not key=value.
    ("--epochs=3", "write train.epochs=3"),
    ("-v", "-v"),
    ("epochs", "write train.epochs=..."),
    ("train..epochs=3", "write train.epochs=3"),
    ("", "key=value"),
    # Of another type.
    ("train.epochs=3.5", "train.epochs"),
    ("train.epochs=true", "train.epochs"),
    ("train.epochs=[1, 2]", "train.epochs"),
    ("optimizer.lr=high", "optimizer.lr"),
    ("data.download=maybe", "data.download"),
    ("run.name=[a]", "run.name"),
    ("compute.threads=many", "compute.threads"),
    ("wandb.tags=a", "must be a list, such as [a, b]"),
    ("train=3", "train"),
    ("train={epoch: 3}", "train.epoch"),
    ("run.from_=runs/a", "run.from_: no such key; write run.from"),
    ("run={from_: runs/a}", "run.from_: no such key; write run.from"),
    ("run.fro=runs/a", "Did you mean: 'from'?"),
    ("from=runs/a", "did you mean run.from?"),
    # null.
    ("train.epochs=null", "train.epochs"),
    ("run.root=", "run.root"),
    ("seed=???", "seed"),
    # Out of range.
    ("train.epochs=0", "train.epochs=0: must be >= 1"),
    ("train.label_smoothing=1", "train.label_smoothing=1.0: must be >= 0 and < 1"),
    ("model.std=0", "model.std=0.0: must be > 0"),
    ("train.epochs=010", "train.epochs=010: write the number in decimals"),
    ("train.epochs=1:30", "train.epochs=1:30: write the number in decimals"),
    ("optimizer.lr=.nan", "optimizer.lr"),
    ("compute.threads=100000", "compute.threads=100000: must be >= 1 and <= 1024"),
    ('data.root="a\\0b"', "data.root='a\\x00b': must not hold a null character"),
    ("seed=9223372036854775808", "seed=9223372036854775808"),
    ("optimizer.lr=nan", "optimizer.lr=nan"),
    ("optimizer.lr=1e400", "optimizer.lr=inf"),
    # Not a choice.
    ("optimizer.name=lion", "['adam', 'adamw', 'muon', 'sgd']"),
    ("compute.precision=yes", "compute.precision"),
    # Not a folder.
    ("run.root=s3://bucket/runs", "run.root=s3://bucket/runs: a URL"),
    ("run.from=hf://me/lenet", "run.from=hf://me/lenet: a URL"),
    ("run.root=$NO_SUCH_VARIABLE/x", "$NO_SUCH_VARIABLE is not set"),
    ("run.root=~nobody-of-that-name/x", "no such home folder"),
    # Not YAML.
    ("train.epochs=[", "train.epochs"),
    ("run.name=!!python/object:os.system x", "run.name"),
    ("run.root=${nosuch}", "run.root"),
    ("run.name=\udcff", "run.name"),
    # Not a plain name.
    *[(f"run.name={name}", "run.name") for name in ("../x", ".", ".x", "-x", "a b", "''")],
    (f"run.name={'x' * 300}", "300 bytes; must be no more than 255"),
]


@pytest.mark.parametrize(("override", "named"), REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_key(override: str, named: str) -> None:
    assert named in refusal(None, override)


BAD_FILES = [
    ("not YAML", b"train: [1, 2", "not YAML"),
    ("two documents", b"seed: 1\n---\nseed: 2\n", "not YAML"),
    ("twice the same key", b"seed: 1\nseed: 2\n", "duplicate key seed"),
    ("code", b"run:\n  name: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ("binary", bytes(range(256)), "not YAML"),
    ("a list", b"- seed\n- 1\n", "expected keys and values"),
    ("an unknown key", b"train:\n  epoch: 3\n", "train.epoch"),
    ("a leaf without its section", b"epochs: 3\n", "train.epochs"),
    ("a section that is a number", b"train: 3\n", "train: a section"),
    ("a section that is empty", b"train:\n", "train"),
    ("a wrong type", b"train:\n  epochs: abc\n", "train.epochs"),
]


@pytest.mark.parametrize(("kind", "content", "named"), BAD_FILES)
def test_a_bad_file_is_refused_in_one_line_that_names_the_file(
    tmp_path: Path, kind: str, content: bytes, named: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    message = refusal(file)
    assert str(file) in message
    assert named in message


def test_a_file_that_is_missing_or_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    assert f"{tmp_path / 'missing.yaml'}: No such file" in refusal(tmp_path / "missing.yaml")
    assert f"{tmp_path}: Is a directory" in refusal(tmp_path)
