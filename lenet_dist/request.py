"""How a request, ``--config FILE key=value ...``, is read into a config and checked.

Precedence: schema default < file < ``key=value``.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import math
import os
import re
from pathlib import Path
from typing import Any, cast, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_dist.config import Config, Key, keys, value_of
from lenet_dist.exits import RequestError

_LONGEST_NAME = 255
"""Bytes: the limit of most file systems."""
_TEXT = (str, str | None)
_WORD = Key("", str, "", "", {})
_NULL = "tag:yaml.org,2002:null"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NO_MAPPING = "expected keys and values, as in configs/default.yaml"


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
    config.run.root = _folder("run.root", config.run.root)
    config.data.root = _folder("data.root", config.data.root)
    for entry in keys():
        value = value_of(config, entry.name)
        _check_range(entry, value)
        if isinstance(value, str) and "\0" in value:
            raise RequestError(f"{entry.name}={value!r}: must not hold a null character")
    _check_name(config.run.name)
    return config


def _folder(key: str, typed: str) -> str:
    """A folder's path, with `~` and `$VARIABLE` expanded."""
    if re.match(r"[A-Za-z][\w+.-]*://", typed):
        raise RequestError(f"{key}={typed}: a URL; it must be a folder, so mount it and name that")
    expanded = os.path.expandvars(typed)
    if unset := re.search(r"\$\w+", expanded):
        raise RequestError(f"{key}={typed}: {unset[0]} is not set; write the folder itself")
    # Not by Path, which would change what was typed in other ways too.
    expanded = os.path.expanduser(expanded)  # noqa: PTH111
    if expanded.startswith("~"):
        raise RequestError(f"{key}={typed}: no such home folder; write the folder itself")
    return expanded


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(
            f"run.name={name!r}: must be a plain name of letters, digits, '-', '_' and '.'"
        )
    if (size := len(name.encode())) > _LONGEST_NAME:
        raise RequestError(
            f"run.name={name[:20]}...: {size} bytes; must be no more than {_LONGEST_NAME}"
        )


def _read(file: Path) -> DictConfig:
    try:
        text = file.read_text(encoding="utf-8")
        loaded = OmegaConf.load(io.StringIO(text))
    except OSError as error:
        # OmegaConf raises OSError without a reason for YAML that holds only a bare value.
        reason = error.strerror or _NO_MAPPING
        raise RequestError(f"{file}: {reason}") from None
    except RecursionError:
        raise RequestError(f"{file}: too many levels") from None
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise RequestError(f"{file}: not YAML: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise RequestError(f"{file}: {_NO_MAPPING}")
    return _as_typed(loaded, yaml.compose(text, yaml.SafeLoader), f"{file}: ")


def _as_typed(loaded: DictConfig, root: yaml.Node | None, source: str) -> DictConfig:
    """What OmegaConf has loaded from YAML, with text exactly as it stands in the YAML's nodes."""
    for key in keys():
        node = _node_at(root, key.name)
        _check_number(key, node, source)
        words = _words(key, node)
        if words is not None:
            OmegaConf.update(loaded, key.name, words)
    return loaded


def _parse(override: str) -> DictConfig:
    name, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        example = f"{_full_name(name) or 'train.epochs'}={value or '...'}"
        raise RequestError(f"{override}: expected key=value; write {example}")
    key = next((key for key in keys() if key.name == name), None)
    if key:
        _check_number(key, _node_of(value), "")
    try:
        words = _words_typed(key, value) if key else None
        if words is not None:
            OmegaConf.update(literal := OmegaConf.create(), name, words)
            return literal
        loaded = OmegaConf.from_dotlist([override])
        return loaded if key else _as_typed(loaded, _node_of(f"{name}: {value}"), "")
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise RequestError(f"{override!r}: {error}") from None


def _words_typed(key: Key, text: str) -> str | list[str] | None:
    """Like `_words`, for the text after ``key=`` on the command line."""
    if not text.isprintable():
        return None
    node = _node_of(text)
    is_plain = not (isinstance(node, yaml.ScalarNode) and node.style in ("'", '"'))
    if key.type in _TEXT and text and is_plain and getattr(node, "tag", "") != _NULL:
        return text
    return _words(key, node)


def _node_of(text: str) -> yaml.Node | None:
    """What YAML takes a text for; None if for nothing."""
    try:
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return None


def _check_number(key: Key, node: yaml.Node | None, source: str) -> None:
    """YAML 1.1 takes 010 for eight, and 1:30 for ninety."""
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _NUMBERS or key.type in _TEXT:
        return
    if re.search(r"^[-+]?0[\d_]|:", node.value):
        raise RequestError(f"{source}{key.name}={node.value}: write the number in decimals")


def _words(key: Key, node: yaml.Node | None) -> str | list[str] | None:
    """A YAML node's text exactly as typed, if the key takes text: there 007 is not a number and off
    not a boolean. None if nothing is to be taken literally."""
    if key.type in _TEXT and isinstance(node, yaml.ScalarNode) and node.tag != _NULL:
        return node.value
    if key.type == list[str] and isinstance(node, yaml.SequenceNode):
        words = [_words(_WORD, item) for item in node.value]
        return words if all(isinstance(word, str) for word in words) else None  # type: ignore[return-value]
    return None


def _node_at(root: yaml.Node | None, name: str) -> yaml.Node | None:
    node = root
    for part in name.split("."):
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for key, value in entries if key.value == part), None)
    return node


def _merge(base: DictConfig, other: DictConfig, source: str) -> DictConfig:
    try:
        _mend(other, source)
        return cast(DictConfig, OmegaConf.unsafe_merge(base, other))
    except OmegaConfBaseException as error:
        raise RequestError(source + _explain(error)) from None


def _mend(request: DictConfig, source: str) -> None:
    """Handle what OmegaConf's merge would misread, or refuse without naming the key."""
    if missing := OmegaConf.missing_keys(request):
        raise RequestError(f"{source}{min(missing)}: ??? is not a value")
    for section in dataclasses.fields(Config):
        given = OmegaConf.select(request, section.name, default={})
        if section.name != "seed" and not isinstance(given, dict | DictConfig):
            raise RequestError(f"{source}{section.name}: a section; set {section.name}.KEY")
    for key in keys():
        value = OmegaConf.select(request, key.name)
        if value is False and "no" in key.alternatives:
            OmegaConf.update(request, key.name, "no")  # YAML 1.1 reads a bare `no` as false.
        is_no_list = value is not None and not isinstance(value, ListConfig)
        if is_no_list and get_origin(key.type) is list:
            raise RequestError(f"{source}{key.name}: must be a list, such as [a, b]")


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's message on one line, with the key's full name, and the key meant if known."""
    name = str(error.full_key or "")
    message = str(error).splitlines()[0]
    meant = _full_name(name) if error.full_key not in {key.name for key in keys()} else ""
    hint = f"; did you mean {meant}?" if meant and "Did you mean" not in message else ""
    return f"{name}: {message}{hint}" if name else f"{message}{hint}"


def _full_name(word: str) -> str:
    """The dotted key that a bare or mistyped name stands for, or an empty string."""
    names = [key.name for key in keys()]
    leaf = word.strip("-").rsplit(".", 1)[-1]
    same_leaf = [name for name in names if name.rsplit(".", 1)[-1] == leaf]
    return next(iter(same_leaf or difflib.get_close_matches(word, names, 1)), "")


def _check_range(key: Key, value: Any) -> None:
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise RequestError(f"{key.name}={value}: must be a list of words")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, above, high, below = (key.metadata[name] for name in ("low", "above", "high", "below"))
    if not math.isfinite(value):
        raise RequestError(f"{key.name}={value}: must be a finite number")
    if not (low <= value <= high and above < value < below):
        bounds = [(">=", low), (">", above), ("<=", high), ("<", below)]
        wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
        raise RequestError(f"{key.name}={value}: must be {wanted}")
