"""What a request takes from a file and the command line; what is refused, and in which words."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread
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


@pytest.mark.parametrize("override", ["wandb.tags=a", "log.trackers=wandb", "wandb.tags=1"])
def test_a_word_where_a_list_should_be_is_refused(override: str) -> None:
    with pytest.raises(RequestError, match=r"must be a list, such as \[a, b\]"):
        load(None, [override])


def test_a_file_beats_the_default_and_the_command_line_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  epochs: 3\n  batch_size: 64\n")
    config = load(file, ["train.epochs=4"])
    assert (config.train.epochs, config.train.batch_size, config.train.shards) == (4, 64, 16)
    assert load(file).train.epochs == 3
    assert load().train.epochs == 14


def test_of_two_on_the_command_line_the_later_one_counts() -> None:
    assert load(None, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert load(file) == load()


TAKEN = [
    ("compute.precision=no", "no"),
    ("compute.precision='no'", "no"),
    ("compute.precision=bf16", "bf16"),
    ("compute.threads=4", 4),
    ("compute.threads=auto", "auto"),
    ("train.max_steps=null", None),
    ("train.max_steps=7", 7),
    ("optimizer.lr=1e-3", 0.001),
    ("optimizer.lr=1", 1.0),
    ("data.download=no", False),
    ("seed=9223372036854775807", 2**63 - 1),
    ("wandb.tags=[a, b]", ["a", "b"]),
    ("wandb.entity=null", None),
    ("run.name=run-1.5_b", "run-1.5_b"),
    ("run.name=1", "1"),
    ("run.name=007", "007"),
    ("run.name=1e3", "1e3"),
    ("run.name=true", "true"),
    ("run.name=off", "off"),
    ("run.name='007'", "007"),
    ("run.root=1_000", "1_000"),
    ("data.root=12:30", "12:30"),
    ("wandb.project=2026-11-25", "2026-11-25"),
    ("wandb.entity=on", "on"),
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


@pytest.mark.parametrize("text", ["a: b", "a #b", "[a", "{a}", "*a", "x: [y", "%"])
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


def test_a_file_may_come_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "config"
    os.mkfifo(pipe)
    Thread(target=pipe.write_text, args=("run:\n  name: 007\n",), daemon=True).start()
    assert load(pipe).run.name == "007"


REFUSED = [
    # Not a key.
    ("nosuch=1", "nosuch"),
    ("nosuch.epochs=1", "nosuch"),
    ("a.b.c.d=1", "'a'"),
    ("trian.epochs=3", "'train'"),
    ("train.epoch=3", "'epochs'"),
    ("train.epochs.x=3", "train.epochs"),
    ("epochs=3", "train.epochs"),
    ("lr=3", "optimizer.lr"),
    # Not key=value.
    ("--epochs=3", "write train.epochs=3"),
    ("--train.epochs=3", "write train.epochs=3"),
    ("-v", "-v"),
    ("train.epochs", "write train.epochs=..."),
    ("epochs", "write train.epochs=..."),
    ("train.epochs =3", "write train.epochs=3"),
    ("train..epochs=3", "write train.epochs=3"),
    ("=3", "=3"),
    ("", "key=value"),
    ("seed[0]=1", "write seed=1"),
    # Of another type.
    ("train.epochs=abc", "train.epochs"),
    ("train.epochs=3.5", "train.epochs"),
    ("train.epochs=true", "train.epochs"),
    ("train.epochs=[1, 2]", "train.epochs"),
    ("train.epochs={a: 1}", "train.epochs"),
    ("seed=1e3", "seed"),
    ("optimizer.lr=high", "optimizer.lr"),
    ("optimizer.lr=true", "optimizer.lr"),
    ("data.download=maybe", "data.download"),
    ("run.name=[a]", "run.name"),
    ("compute.threads=many", "compute.threads"),
    ("compute.threads=1.5", "compute.threads"),
    ("compute.threads=true", "compute.threads"),
    ("wandb.tags=a", "wandb.tags"),
    ("wandb.tags=[null]", "wandb.tags"),
    ("wandb.tags={a: b}", "wandb.tags"),
    ("wandb.tags=[[a]]", "wandb.tags"),
    ("train=3", "train"),
    ("train=[1]", "train"),
    ("train=null", "train"),
    ("train={epoch: 3}", "train.epoch"),
    # null.
    ("train.epochs=null", "train.epochs"),
    ("train.epochs=", "train.epochs"),
    ("run.name=null", "run.name"),
    ("run.root=", "run.root"),
    ("compute.threads=null", "compute.threads"),
    ("compute.compile=null", "compute.compile"),
    ("wandb.tags=null", "wandb.tags"),
    ("seed=???", "seed"),
    # Out of range.
    ("train.epochs=0", "train.epochs=0: must be >= 1"),
    ("train.batch_size=-1", "train.batch_size=-1: must be >= 1"),
    ("train.max_steps=0", "train.max_steps=0: must be >= 1"),
    ("train.label_smoothing=1", "train.label_smoothing=1.0: must be >= 0 and < 1"),
    ("train.ema_decay=-0.1", "train.ema_decay=-0.1: must be >= 0 and < 1"),
    ("optimizer.lr=0", "optimizer.lr=0.0: must be > 0"),
    ("model.std=0", "model.std=0.0: must be > 0"),
    ("train.epochs=010", "train.epochs=010: write the number in decimals"),
    ("train.max_steps=1:30", "train.max_steps=1:30: write the number in decimals"),
    ("compute.threads=100000", "compute.threads=100000: must be >= 1 and <= 1024"),
    ("compute.timeout_seconds=99999999", "compute.timeout_seconds=99999999: must be >= 1 and <="),
    ('data.root="a\\0b"', "data.root='a\\x00b': must not hold a null character"),
    ("augment.rotate=181", "augment.rotate=181.0: must be >= 0 and <= 180"),
    ("compute.threads=0", "compute.threads=0: must be >= 1"),
    ("seed=-1", "seed=-1"),
    ("seed=9223372036854775808", "seed=9223372036854775808"),
    # Not finite.
    ("optimizer.lr=nan", "optimizer.lr=nan"),
    ("optimizer.lr=.nan", "optimizer.lr=nan"),
    ("optimizer.lr=inf", "optimizer.lr=inf"),
    ("optimizer.lr=-.inf", "optimizer.lr=-inf"),
    ("optimizer.lr=1e400", "optimizer.lr=inf"),
    ("optimizer.weight_decay=.inf", "optimizer.weight_decay=inf"),
    ("optimizer.lr=inf", "finite"),
    # Not a choice.
    ("optimizer.name=lion", "['adam', 'adamw', 'muon', 'sgd']"),
    ("compute.precision=fp32", "compute.precision"),
    ("compute.precision=yes", "compute.precision"),
    ("train.reduction=no", "['fixed', 'ddp']"),
    ("run.resume=maybe", "run.resume"),
    ("wandb.mode=off", "wandb.mode"),
    # Not a folder.
    ("run.root=s3://bucket/runs", "run.root=s3://bucket/runs: a URL"),
    ("data.root=file:///data", "data.root=file:///data: a URL"),
    ("run.root=$NO_SUCH_VARIABLE/x", "$NO_SUCH_VARIABLE is not set"),
    ("run.root=~nobody-of-that-name/x", "no such home folder"),
    # Not YAML.
    ("train.epochs=[", "train.epochs"),
    ("train.epochs={", "train.epochs"),
    ("train.epochs=*a", "train.epochs"),
    ("run.name=!!python/object:os.system x", "run.name"),
    ("run.root=${nosuch}", "run.root"),
    ("train.epochs=a\nb", "train.epochs"),
    ("run.name=\udcff", "run.name"),
    # Not a plain name.
    *[(f"run.name={name}", "run.name") for name in ("../x", "a/b", ".", "..", ".x", "-x", "a b")],
    ("run.name=''", "run.name"),
    (
        f"run.name={'x' * 300}",
        "run.name=xxxxxxxxxxxxxxxxxxxx...: 300 bytes; must be no more than 255",
    ),
    ('run.name="a\\nb"', "run.name"),
]


@pytest.mark.parametrize(("override", "named"), REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_key(override: str, named: str) -> None:
    assert named in refusal(None, override)


BAD_FILES = [
    ("not YAML", b"train: [1, 2", "not YAML"),
    ("tabs", b"train:\n\tepochs: 3\n", "not YAML"),
    ("two documents", b"seed: 1\n---\nseed: 2\n", "not YAML"),
    ("twice the same key", b"seed: 1\nseed: 2\n", "duplicate key seed"),
    ("code", b"run:\n  name: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ("not UTF-8", "# é\n".encode("latin-1"), "not YAML"),
    ("binary", bytes(range(256)), "not YAML"),
    ("a list", b"- seed\n- 1\n", "expected keys and values"),
    ("a word", b"hello\n", "hello"),
    ("a number", b"3\n", "expected keys and values"),
    ("an unknown key", b"train:\n  epoch: 3\n", "train.epoch"),
    ("an unknown section", b"trian:\n  epochs: 3\n", "'train'"),
    ("a leaf without its section", b"epochs: 3\n", "train.epochs"),
    ("a key that is a number", b"1: 2\n", "'1'"),
    ("a section that is a number", b"train: 3\n", "train: a section"),
    ("a section that is empty", b"train:\n", "train"),
    ("a section that is a list", b"train:\n- epochs: 3\n", "train: a section"),
    ("a wrong type", b"train:\n  epochs: abc\n", "train.epochs"),
    ("a list that is a word", b"wandb:\n  tags: a\n", "wandb.tags"),
    ("a list that is a mapping", b"wandb:\n  tags: {a: b}\n", "wandb.tags"),
    ("not a choice", b"compute:\n  precision: yes\n", "compute.precision"),
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


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("train:\n  epochs: 0\n", "train.epochs=0: must be >= 1"),
        ("optimizer:\n  lr: .nan\n", "optimizer.lr=nan"),
        ("run:\n  name: ../x\n", "run.name='../x'"),
    ],
)
def test_a_value_out_of_range_in_a_file_is_refused_by_its_key(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    assert named in refusal(file)


def test_a_file_that_is_missing_or_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    assert f"{tmp_path / 'missing.yaml'}: No such file" in refusal(tmp_path / "missing.yaml")
    assert f"{tmp_path}: Is a directory" in refusal(tmp_path)
