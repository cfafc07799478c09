"""The configuration: a typed schema, its keys, and what of it decides a run's result."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf


def _key(
    default: Any, help: str, *, low: float = -math.inf, above: float = -math.inf,
    high: float = math.inf, below: float = math.inf,
) -> Any:  # fmt: skip
    """A schema key: its default, its ``--help`` text, and the range that a number must lie in."""
    bounds = {"low": low, "above": above, "high": high, "below": below}
    return field(default_factory=lambda: copy.copy(default), metadata={"help": help, **bounds})


@dataclass
class Run:
    """Where the run lives and what to do if it is already there."""

    name: str = _key("default", "name of the run; its directory is run.root/run.name")
    root: str = _key("runs", "folder of the run directories; ~ and $VARIABLE are expanded")
    resume: Literal["auto", "never", "must"] = _key(
        "auto", "auto: resume a run that has begun; never: refuse to; must: refuse a new run"
    )
    inexact: bool = _key(False, "resume even if the bits will differ; recorded as bit_exact: false")
    from_: str | None = _key(
        None, "run or weights file whose weights a new run begins with; null = those of its seed"
    )


@dataclass
class Data:
    """Which images to use, and how many of them to hold out."""

    name: Literal["mnist", "fashion_mnist", "synthetic"] = _key("mnist", "which data set")
    root: str = _key("data", "folder of the data's files; ~ and $VARIABLE are expanded")
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

    epochs: int = _key(14, "epochs", low=1)
    max_steps: int | None = _key(
        None, "stop after this many steps, if that is sooner; null = no limit", low=1
    )
    batch_size: int = _key(256, "GLOBAL batch: images per optimizer step over all processes", low=1)
    shards: int = _key(16, "equal parts of the batch; gradients are summed in a fixed tree", low=1)
    shards_at_once: int | Literal["auto"] = _key(
        "auto", "shards whose gradients are computed together; 1 = one by one", low=1
    )
    reduction: Literal["fixed", "ddp"] = _key(
        "fixed", "fixed: the same bits on any number of processes; ddp: DDP's own all-reduce"
    )
    clip_norm: float = _key(0.0, "clip the gradient to this norm; 0 = no clipping", low=0)
    label_smoothing: float = _key(
        0.0, "share of the target spread over all classes", low=0, below=1
    )
    ema_decay: float = _key(0.99, "EMA decay of the weights; 0 = off", low=0, below=1)


@dataclass
class Optimizer:
    """The optimizer: one of torch.optim's, or Muon for the hidden layers and AdamW for the rest."""

    name: Literal["adam", "adamw", "muon", "sgd"] = _key("adamw", "which optimizer")
    lr: float = _key(4e-3, "peak learning rate", above=0)
    weight_decay: float = _key(0.01, "weight decay", low=0)
    beta1: float = _key(0.9, "all but sgd: decay of the gradient's mean", low=0, below=1)
    beta2: float = _key(0.999, "all but sgd: decay of the squared gradient's mean", low=0, below=1)
    momentum: float = _key(0.9, "sgd: momentum", low=0, below=1)


@dataclass
class Schedule:
    """The learning rate as a function of the step."""

    name: Literal["constant", "cosine", "one_cycle"] = _key("one_cycle", "shape of the curve")
    warmup: float = _key(0.2, "share of all steps spent rising to the peak", low=0, below=1)
    final: float = _key(0.0, "learning rate at the end, as a share of the peak", low=0, high=1)


@dataclass
class Augment:
    """Augmentation. Each key but `fade` is the half-width of a uniform range; 0 = off."""

    rotate: float = _key(10.0, "largest rotation either way, in degrees", low=0, high=180)
    translate: float = _key(0.08, "largest shift, as a fraction of the side", low=0, high=1)
    scale: float = _key(0.1, "largest change of size, as a fraction", low=0, below=1)
    shear: float = _key(0.0, "largest shear, as a fraction of the height", low=0, high=1)
    elastic: float = _key(0.0, "fraction of the side, for shifts 7 pixels apart", low=0, high=1)
    fade: float = _key(0.0, "augmentation fades out over this last share of epochs", low=0, high=1)


@dataclass
class Compute:
    """Precision, threads, kernels and timeout."""

    precision: Literal["no", "bf16", "fp16"] = _key("no", "mixed precision; fp16 needs a GPU")
    kernels: Literal["auto", "native", "torch"] = _key(
        "auto", "LeNet-5 in float32 on a CPU: by the package's compiled kernel, or by torch"
    )
    threads: int | Literal["auto"] = _key(
        "auto", "CPU threads per process; auto = cores / processes on the node", low=1, high=1024
    )
    deterministic: bool = _key(True, "use deterministic kernels only")
    compile: bool = _key(False, "torch.compile the model")
    cuda_graph: bool | Literal["auto"] = _key(
        "auto", "capture the step as a CUDA graph; auto: on GPUs where supported"
    )
    audit_every: int = _key(
        200, "steps between audits: a process recomputes another's shard; 0 = off", low=0
    )
    timeout_seconds: int = _key(120, "longest wait for another process", low=1, high=10**6)


@dataclass
class Evaluate:
    """Evaluation during training."""

    batch_size: int = _key(
        1000, "images per chunk; one process computes a chunk", low=1, high=10**6
    )
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

    seed: int = _key(0, "seed of weights, sample order, augmentation and split", low=0, below=2**63)
    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)
    compute: Compute = field(default_factory=Compute)
    evaluate: Evaluate = field(default_factory=Evaluate)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    wandb: Wandb = field(default_factory=Wandb)


TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "synthetic": 12_000}

_DECIDES_NOTHING = (
    "run.name", "run.root", "run.resume", "run.inexact", "checkpoint.", "wandb.", "log.trackers",
    "log.report", "data.root", "data.download", "compute.threads", "compute.kernels",
    "train.shards_at_once", "compute.timeout_seconds", "compute.audit_every",
)  # fmt: skip
"""Keys that do not change weights or metrics. Three of them can, but they are compared separately,
because `auto` is resolved only when the run begins: threads, kernels, shards_at_once."""


def as_dict(config: Config) -> dict[str, Any]:
    """The config by sections, with each key's own name, in the schema's order."""
    content: dict[str, Any] = {}
    for key in keys():
        section, _, leaf = key.name.rpartition(".")
        (content.setdefault(section, {}) if section else content)[leaf] = value_of(config, key.name)
    return content


def to_yaml(config: Config) -> str:
    """The config as YAML, every key in the schema's order."""
    return OmegaConf.to_yaml(OmegaConf.create(as_dict(config)))


def config_hash(config: Config) -> str:
    """SHA-256 (hex) of the keys that decide weights and metrics."""
    values = deciding(config)
    if values["run.from"] is None:  # As before there was this key.
        del values["run.from"]
    canonical = json.dumps(values, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def deciding(config: Config) -> dict[str, Any]:
    """The keys that decide weights and metrics, by dotted name."""
    names = (entry.name for entry in keys())
    values = {name: value_of(config, name) for name in names}
    if config.compute.cuda_graph == "auto":
        # Captured or not, a step has the same bits. Before there was `auto`, runs said false.
        values["compute.cuda_graph"] = False
    if config.run.from_:
        path, digest = split_source(config.run.from_)
        values["run.from"] = digest or path
    return {name: values[name] for name in values if not name.startswith(_DECIDES_NOTHING)}


_DIGEST = "@sha256:"


def join_source(path: str, digest: str) -> str:
    """``run.from`` as a run records it: the path, and the SHA-256 (hex) of the weights there."""
    return f"{path}{_DIGEST}{digest}"


def split_source(source: str) -> tuple[str, str]:
    """The path of ``run.from``, and the SHA-256 of its weights; empty if it is not told."""
    path, _, digest = source.partition(_DIGEST)
    return path, digest


@dataclass(frozen=True)
class Key:
    """One key of the schema: dotted name, type, default, help, and metadata with its range."""

    name: str
    type: Any
    default: Any
    help: str
    metadata: Any

    @property
    def alternatives(self) -> list[str]:
        """The types and words that the key takes: ``["int", "auto"]``, ``["fixed", "ddp"]``."""
        return _alternatives(self.type)


def _alternatives(hint: Any) -> list[str]:
    if get_origin(hint) is Literal:
        return [str(choice) for choice in get_args(hint)]
    if get_origin(hint) is list:
        return ["list"]
    if get_args(hint):
        return [name for part in get_args(hint) for name in _alternatives(part)]
    return ["null" if hint is type(None) else hint.__name__]


@cache
def keys() -> tuple[Key, ...]:
    """Every key of the schema, in the schema's order."""
    return tuple(_keys(Config, ""))


def _keys(schema: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        name, hint = prefix + item.name.removesuffix("_"), hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _keys(cast(type, hint), name + ".")
        else:
            default = getattr(schema(), item.name)
            yield Key(name, hint, default, item.metadata["help"], item.metadata)


def describe_keys() -> str:
    """The schema as ``--help`` prints it: key, type, default, meaning."""
    rows = [
        (key.name, " or ".join(key.alternatives), json.dumps(key.default), key.help)
        for key in keys()
    ]
    name_width = max(len(name) for name, *_ in rows)
    return "\n".join(
        f"  {name:<{name_width}}  {help}\n  {'':<{name_width}}  ({kind}; default {default})"
        for name, kind, default, help in rows
    )


def value_of(config: Config, name: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, f"{part}_" if keyword.iskeyword(part) else part)
    return value
