"""The configuration: a typed schema, and how a request is read into it and checked.

Precedence: schema default < ``--config`` file < ``key=value``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet_dist.exits import RequestError


def _key(
    default: Any, help: str, *, low: float = -math.inf, above: float = -math.inf,
    high: float = math.inf, below: float = math.inf,
) -> Any:  # fmt: skip
    """A schema key: its default, its ``--help`` text, and the range that a number must lie in."""
    bounds = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"help": help, **bounds}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _section(schema: type) -> Any:
    return field(default_factory=schema)


@dataclass
class Run:
    """Where the run lives and what to do if it is already there."""

    name: str = _key("default", "name of the run; its directory is run.root/run.name")
    root: str = _key("runs", "folder that holds the run directories")
    resume: Literal["auto", "never", "must"] = _key(
        "auto", "auto: resume a run that has begun; never: refuse to; must: refuse a new run"
    )
    inexact: bool = _key(False, "resume even if the bits will differ; recorded as bit_exact: false")


@dataclass
class Data:
    """Which images to use, and how many of them to hold out."""

    name: Literal["mnist", "fashion_mnist", "synthetic"] = _key("mnist", "which data set")
    root: str = _key("data", "folder of the data's files")
    validation: int = _key(5000, "training images held out for validation; 0 = none", low=0)
    download: bool = _key(True, "fetch what is missing")


@dataclass
class Model:
    """LeNet-5's input: (pixels - mean) / std, with pixels in [0, 1]."""

    mean: float = _key(0.0, "subtracted from pixels in [0, 1]", low=0, high=1)
    std: float = _key(1.0, "divisor of the pixels, after the mean is subtracted", above=0)


@dataclass
class Train:
    """How long to train, on what batch, and how a step's gradient is formed."""

    epochs: int = _key(14, "passes over the training images", low=1)
    max_steps: int | None = _key(
        None, "stop after this many steps, if that is sooner; null = no limit", low=1
    )
    batch_size: int = _key(256, "GLOBAL batch: images per optimizer step over all processes", low=1)
    shards: int = _key(16, "equal parts of the batch; gradients are summed in a fixed tree", low=1)
    reduction: Literal["fixed", "ddp"] = _key(
        "fixed", "fixed: the same bits on any number of processes; ddp: DDP's own all-reduce"
    )
    clip_norm: float = _key(0.0, "clip the gradient to this norm; 0 = no clipping", low=0)
    label_smoothing: float = _key(
        0.0, "share of the target spread over all classes", low=0, below=1
    )
    ema_decay: float = _key(0.99, "decay of the weights' running mean; 0 = none", low=0, below=1)


@dataclass
class Optimizer:
    """An optimizer from torch.optim."""

    name: Literal["adam", "adamw", "sgd"] = _key("adamw", "which optimizer")
    lr: float = _key(4e-3, "peak learning rate", above=0)
    weight_decay: float = _key(0.01, "weight decay", low=0)
    beta1: float = _key(0.9, "adam, adamw: decay of the gradient's mean", low=0, below=1)
    beta2: float = _key(0.999, "adam, adamw: decay of the squared gradient's mean", low=0, below=1)
    momentum: float = _key(0.9, "sgd: momentum", low=0, below=1)


@dataclass
class Schedule:
    """The learning rate as a function of the step."""

    name: Literal["constant", "cosine", "one_cycle"] = _key("one_cycle", "shape of the curve")
    warmup: float = _key(0.2, "share of all steps spent rising to the peak", low=0, below=1)
    final: float = _key(0.0, "learning rate at the end, as a share of the peak", low=0, high=1)


@dataclass
class Augment:
    """Distortion. Each key but `fade` is the half-width of a uniform range; 0 = off."""

    rotate: float = _key(10.0, "degrees", low=0, high=180)
    translate: float = _key(0.08, "fraction of the image's side", low=0, high=1)
    scale: float = _key(0.1, "fraction of the size", low=0, below=1)
    shear: float = _key(0.0, "fraction of the height", low=0, high=1)
    elastic: float = _key(0.0, "fraction of the side, for shifts 7 pixels apart", low=0, high=1)
    fade: float = _key(0.0, "last share of the epochs, over which it fades out", low=0, high=1)


@dataclass
class Compute:
    """Precision, threads, kernels and timeout."""

    precision: Literal["no", "bf16", "fp16"] = _key("no", "mixed precision; fp16 needs a GPU")
    threads: int | Literal["auto"] = _key(
        "auto", "CPU threads per process; auto = cores / processes on the node", low=1
    )
    deterministic: bool = _key(True, "use deterministic kernels only")
    compile: bool = _key(False, "torch.compile the model")
    cuda_graph: bool | Literal["auto"] = _key(
        "auto", "capture the step as a CUDA graph; auto = on a GPU, if it can be"
    )
    audit_every: int = _key(
        200, "steps between audits: a process recomputes another's shard; 0 = off", low=0
    )
    timeout_seconds: int = _key(120, "longest wait for another process", low=1)


@dataclass
class Evaluate:
    """Evaluation during training."""

    batch_size: int = _key(1000, "images per chunk; one process computes a chunk", low=1)
    every_epochs: int = _key(1, "epochs between validations; there is one at the end too", low=1)


@dataclass
class Checkpoint:
    """When to save, apart from at a stop and at the end."""

    every_steps: int = _key(0, "steps between checkpoints; 0 = off", low=0)
    every_seconds: float = _key(60.0, "seconds between checkpoints; 0 = off", low=0)
    keep: int = _key(2, "how many of the newest checkpoints to keep", low=1)


@dataclass
class Log:
    """What a run reports, and where."""

    every_steps: int = _key(50, "steps between train lines", low=1)
    trackers: list[str] = _key(["wandb"], "trackers that get the lines: wandb, tensorboard")
    report: bool = _key(True, "write report.html at the end")


@dataclass
class Wandb:
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = _key(
        "auto", "auto: online if a key is configured, else offline"
    )
    project: str = _key("lenet-dist", "W&B project")
    entity: str | None = _key(None, "W&B user or team; null = the key's default")
    group: str | None = _key(None, "W&B group, for the seeds of one experiment")
    tags: list[str] = _key([], "W&B tags")


@dataclass
class Config:
    """The whole config of a run. A run is a pure function of it."""

    seed: int = _key(0, "seed of weights, order, distortion and split", low=0, below=2**63)
    run: Run = _section(Run)
    data: Data = _section(Data)
    model: Model = _section(Model)
    train: Train = _section(Train)
    optimizer: Optimizer = _section(Optimizer)
    schedule: Schedule = _section(Schedule)
    augment: Augment = _section(Augment)
    compute: Compute = _section(Compute)
    evaluate: Evaluate = _section(Evaluate)
    checkpoint: Checkpoint = _section(Checkpoint)
    log: Log = _section(Log)
    wandb: Wandb = _section(Wandb)


TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "synthetic": 12_000}

_DECIDES_NOTHING = (
    "run.", "checkpoint.", "wandb.", "log.trackers", "log.report", "data.root", "data.download",
    "compute.threads", "compute.timeout_seconds", "compute.audit_every",
)  # fmt: skip
"""Keys that do not change weights or metrics. Threads can, but they are compared separately,
because `auto` is resolved only when the run begins."""


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
    for entry in keys():
        _check_range(entry, value_of(config, entry.name))
    _check_name(config.run.name)
    return config


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(
            f"run.name={name!r}: must be a plain name of letters, digits, '-', '_' and '.'"
        )
    if (size := len(name.encode())) > _LONGEST_NAME:
        raise RequestError(
            f"run.name={name[:20]}...: {size} bytes; must be no more than {_LONGEST_NAME}"
        )


def to_yaml(config: Config) -> str:
    """The config as YAML, every key in the schema's order."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def config_hash(config: Config) -> str:
    """SHA-256 (hex) of the keys that decide weights and metrics."""
    canonical = json.dumps(deciding(config), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def deciding(config: Config) -> dict[str, Any]:
    """The keys that decide weights and metrics, by dotted name."""
    names = (entry.name for entry in keys())
    values = {name: value_of(config, name) for name in names}
    if config.compute.cuda_graph == "auto":
        # Captured or not, a step has the same bits. Before there was `auto`, runs said false.
        values["compute.cuda_graph"] = False
    return {name: values[name] for name in values if not name.startswith(_DECIDES_NOTHING)}


@dataclass(frozen=True)
class Key:
    """One key of the schema: dotted name, type, default, help, and metadata with its range."""

    name: str
    type: Any
    default: Any
    help: str
    metadata: Any

    @property
    def type_name(self) -> str:
        """The type as ``--help`` shows it: ``int``, ``int or auto``, ``fixed or ddp``."""
        return " or ".join(_alternatives(self.type))


def _alternatives(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is list:
        return ["list"]
    if get_args(hint):
        return [name for part in get_args(hint) for name in _alternatives(part)]
    return ["null" if hint is type(None) else hint.__name__]


def keys(schema: type = Config, prefix: str = "") -> Iterator[Key]:
    """Every key of the schema, in the schema's order."""
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        name, hint = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from keys(cast(type, hint), name + ".")
        else:
            made = item.default_factory
            default = item.default if made is dataclasses.MISSING else made()
            yield Key(name, hint, default, item.metadata["help"], item.metadata)


def describe_keys() -> str:
    """The schema as ``--help`` prints it: key, type, default, meaning."""
    rows = [(key.name, key.type_name, json.dumps(key.default), key.help) for key in keys()]
    name_width = max(len(name) for name, *_ in rows)
    return "\n".join(
        f"  {name:<{name_width}}  {help}\n  {'':<{name_width}}  ({kind}; default {default})"
        for name, kind, default, help in rows
    )


def value_of(config: Config, name: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


_LONGEST_NAME = 255
"""Bytes: the limit of most file systems."""
_TEXT = (str, str | None)
_WORD = Key("", str, "", "", {})
_NULL = "tag:yaml.org,2002:null"
_NO_MAPPING = "expected keys and values, as in configs/default.yaml"


def _read(file: Path) -> DictConfig:
    try:
        text = file.read_text(encoding="utf-8")
        loaded = OmegaConf.load(io.StringIO(text))
    except OSError as error:
        # OmegaConf raises OSError without a reason for YAML that holds only a bare value.
        reason = error.strerror or _NO_MAPPING
        raise RequestError(f"--config {file}: {reason}") from None
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise RequestError(f"--config {file}: not YAML: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise RequestError(f"--config {file}: {_NO_MAPPING}")
    root = yaml.compose(text, yaml.SafeLoader)
    for key in keys():
        words = _words(key, _node_at(root, key.name))
        if words is not None:
            OmegaConf.update(loaded, key.name, words)
    return loaded


def _parse(override: str) -> DictConfig:
    name, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        example = f"{_full_name(name) or 'train.epochs'}={value or '...'}"
        raise RequestError(f"{override}: expected key=value; write {example}")
    try:
        words = next((_words_typed(key, value) for key in keys() if key.name == name), None)
        if words is not None:
            return OmegaConf.create(_nested(name, words))
        return OmegaConf.from_dotlist([override])
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise RequestError(f"{override!r}: {error}") from None


def _words_typed(key: Key, text: str) -> str | list[str] | None:
    """Like `_words`, for the text after ``key=`` on the command line."""
    if not text.isprintable():
        return None
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    is_plain = not (isinstance(node, yaml.ScalarNode) and node.style in ("'", '"'))
    if key.type in _TEXT and text and is_plain and getattr(node, "tag", "") != _NULL:
        return text
    return _words(key, node)


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


def _nested(name: str, value: Any) -> dict[str, Any]:
    """A dotted key and its value, as sections within sections."""
    section, dot, rest = name.partition(".")
    return {section: _nested(rest, value) if dot else value}


def _merge(base: DictConfig, other: DictConfig, source: str) -> DictConfig:
    try:
        _mend(other, source)
        return cast(DictConfig, OmegaConf.merge(base, other))
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
        if value is False and "no" in _alternatives(key.type):
            OmegaConf.update(request, key.name, "no")  # YAML 1.1 reads a bare `no` as false.
        if isinstance(value, DictConfig) and get_origin(key.type) is list:
            raise RequestError(f"{source}{key.name}: must be a list")


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's message on one line, with the key's full name, and the key meant if known."""
    name = str(error.full_key or "")
    message = str(error).splitlines()[0]
    meant = _full_name(name) if error.full_key not in {key.name for key in keys()} else ""
    hint = f"; did you mean {meant}?" if meant and "Did you mean" not in message else ""
    return f"{name}: {message}{hint}" if name else f"{message}{hint}"


def _full_name(word: str) -> str:
    """The dotted key that a bare or mistyped name stands for, or an empty string."""
    import difflib

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
