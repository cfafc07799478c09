"""How a request, ``--config FILE key=value ...``, is read into a config and checked.

Precedence: schema default < file < ``key=value``. YAML is read as text, and a key's type decides
what the text means: 007 may be a name, and off is no boolean.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from pathlib import Path
from typing import Any, cast, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_dist.config import Config, Key, describe_keys, keys, value_of
from lenet_dist.exits import ArgumentParser, RequestError

_LONGEST_NAME = 255
"""Bytes: the limit of most file systems."""
_TEXT = (str, str | None)
_NULL = "tag:yaml.org,2002:null"
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def config_parser(prog: str, options: str, description: str | None) -> ArgumentParser:
    """The parser of a command that takes a config: ``--config FILE``, and every key by key=value,
    which it leaves to `load`."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [-h] [--config FILE] {options} [key=value ...]",
        description=description,
        epilog="keys, each set by key=value:\n" + describe_keys(),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, like those in configs/")
    return parser


def load(file: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """The config of a request.

    Raises RequestError, naming the key or the file, for anything that the schema does not accept.
    """
    merged = OmegaConf.structured(Config)
    if file is not None:
        merged = _merge(merged, _read(Path(file)), f"{file}: ")
    for override in overrides or []:
        merged = _merge(merged, _parse(override), f"{override}: ")
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise RequestError(_explain(error)) from None
    config.run.root = _path("run.root", config.run.root)
    config.data.root = _path("data.root", config.data.root)
    if config.run.from_ is not None:
        config.run.from_ = _path("run.from", config.run.from_)
    for key in keys():
        value = value_of(config, key.name)
        _check_range(key, value)
        if isinstance(value, str) and "\0" in value:
            raise RequestError(f"{key.name}={value!r}: must not hold a null character")
    check_name(config.run.name)
    return config


class _TextLoader(yaml.SafeLoader):
    """YAML in which every scalar but null is text. Refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [name.value for name, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.YAMLError(f"duplicate key {twice[0]}")
        return super().construct_mapping(node, deep)


_TextLoader.yaml_implicit_resolvers = {
    first: nulls
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (nulls := [(tag, pattern) for tag, pattern in resolvers if tag == _NULL])
}


def _read(file: Path) -> Any:
    """The content of a YAML file."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _TextLoader)
    except OSError as error:
        raise RequestError(f"{file}: {error.strerror}") from None
    except RecursionError:
        raise RequestError(f"{file}: too many levels") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RequestError(f"{file}: not YAML: {error}") from None
    if not isinstance(content, dict | None):
        raise RequestError(
            f"{file}: expected keys and values, as in configs/default.yaml, not {str(content)[:40]}"
        )
    return content or {}


def _parse(override: str) -> Any:
    """A ``key=value`` as nested dictionaries."""
    name, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        example = f"{_full_name(name) or 'train.epochs'}={text or '...'}"
        raise RequestError(f"{override}: expected key=value; write {example}")
    try:
        content = text if _is_literal(name, text) else yaml.load(text, _TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{override!r}: {error}") from None
    for part in reversed(name.split(".")):
        content = {part: content}
    return content


def _is_literal(name: str, text: str) -> bool:
    """Whether a key takes a text as it was typed on the command line: neither quoted nor null."""
    if not text.isprintable() or not any(k.name == name and k.type in _TEXT for k in keys()):
        return False
    try:
        node = yaml.compose(text, _TextLoader)
    except yaml.YAMLError:
        return True
    is_quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
    return bool(node) and not is_quoted and getattr(node, "tag", "") != _NULL


def _merge(base: DictConfig, request: Any, source: str) -> DictConfig:
    """The config with what a file or an override sets. `source` opens a message about it."""
    try:
        other = OmegaConf.create(request)
        if missing := OmegaConf.missing_keys(other):
            raise RequestError(f"{source}{min(missing)}: ??? is not a value")
        # To look for all sections and keys in each override takes a tenth of a second.
        for name in (field.name for field in dataclasses.fields(Config) if field.name in request):
            content = OmegaConf.select(other, name, default={})
            if name != "seed" and not isinstance(content, dict | DictConfig):
                raise RequestError(f"{source}{name}: a section; set {name}.KEY")
        for key in (key for key in keys() if key.name.partition(".")[0] in request):
            value = OmegaConf.select(other, key.name)
            if isinstance(value, str):
                OmegaConf.update(other, key.name, _converted(key, value, source))
            if get_origin(key.type) is list and not _is_list_of_words(value):
                raise RequestError(f"{source}{key.name}: must be a list, such as [a, b]")
        run = other.get("run", {})
        if "from_" in run:
            raise RequestError(f"{source}run.from_: no such key; write run.from")
        if "from" in run:
            run["from_"] = run.pop("from")  # An attribute can't have the name of Python's own word.
        return cast(DictConfig, OmegaConf.unsafe_merge(base, other))
    except OmegaConfBaseException as error:
        raise RequestError(source + _explain(error)) from None


def _converted(key: Key, text: str, source: str) -> Any:
    """A text as the key's type has it, where OmegaConf would not convert it."""
    types = key.alternatives
    if "int" in types or "float" in types:
        if re.search(r"^[-+]?0[\d_]|^[-+\d_]+:", text):  # To YAML 1.1 octal, and 1:30 is ninety.
            raise RequestError(f"{source}{key.name}={text}: write the number in decimals")
        if "int" in types and re.fullmatch(r"[-+]?\d[\d_]*", text):
            return int(text)
        if "float" in types:
            return re.sub(r"^([-+]?)\.(?=(nan|inf)$)", r"\1", text, flags=re.IGNORECASE)
    return _BOOLEANS.get(text.lower(), text) if "bool" in types else text


def _is_list_of_words(value: Any) -> bool:
    """Whether a value is a list without lists; its items are OmegaConf's to check."""
    return value is None or (
        isinstance(value, ListConfig) and not any(OmegaConf.is_config(item) for item in value)
    )


def _path(key: str, typed: str) -> str:
    """A path, with `~` and `$VARIABLE` expanded."""
    if re.match(r"[A-Za-z][\w+.-]*://", typed):
        raise RequestError(f"{key}={typed}: a URL; it must be a path, so mount it and name that")
    expanded = os.path.expandvars(typed)
    if unset := re.search(r"\$\w+", expanded):
        raise RequestError(f"{key}={typed}: {unset[0]} is not set; write the path itself")
    # Not by Path, which would change what was typed in other ways too.
    expanded = os.path.expanduser(expanded)  # noqa: PTH111
    if expanded.startswith("~"):
        raise RequestError(f"{key}={typed}: no such home folder; write the path itself")
    return expanded


def check_name(name: str) -> None:
    """Raise RequestError if it can't be a run's name."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(
            f"run.name={name!r}: must be a plain name of letters, digits, '-', '_' and '.'"
        )
    if (size := len(name.encode())) > _LONGEST_NAME:
        raise RequestError(
            f"run.name={name[:20]}...: {size} bytes; must be no more than {_LONGEST_NAME}"
        )


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's message on one line, with the key's full name, and the likely key if known."""
    name = str(error.full_key or "")
    message = str(error).splitlines()[0].replace("'from_'", "'from'")
    likely = _full_name(name) if error.full_key not in {key.name for key in keys()} else ""
    hint = f"; did you mean {likely}?" if likely and "Did you mean" not in message else ""
    return f"{name}: {message}{hint}" if name else f"{message}{hint}"


def _full_name(word: str) -> str:
    """The dotted key that a bare or mistyped name stands for, or an empty string."""
    names = [key.name for key in keys()]
    leaf = word.strip("-").rsplit(".", 1)[-1]
    same_leaf = [name for name in names if name.rsplit(".", 1)[-1] == leaf]
    return next(iter(same_leaf or difflib.get_close_matches(word, names, 1)), "")


def _check_range(key: Key, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, above, high, below = (key.metadata[name] for name in ("low", "above", "high", "below"))
    if not math.isfinite(value):
        raise RequestError(f"{key.name}={value}: must be a finite number")
    if not (low <= value <= high and above < value < below):
        bounds = [(">=", low), (">", above), ("<=", high), ("<", below)]
        limits = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
        raise RequestError(f"{key.name}={value}: must be {limits}")
