"""What is measured: ratios of two cases, and the command that takes a trial of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lenet_dist.config import TRAINING_IMAGES
from lenet_dist.exits import RequestError

REPOSITORY = Path(__file__).parents[2]
TRIAL = "trial"
"""The folder, in the working directory of a trial, that gets its result.json."""

_IMAGES = TRAINING_IMAGES["mnist"]
_FAST, _SLOW = 5 * _IMAGES, _IMAGES // 3
"""Images of a trial that takes them from memory, and of one that decodes each."""
_GPU_FACTOR = 10
"""On a GPU, trials are longer by this factor."""
_PROCESSES = 2


@dataclass(frozen=True)
class Conditions:
    """Where MNIST's files are, the steps of a trial (None: as usual), and the number of GPUs."""

    data: Path
    steps: int | None
    gpus: int

    def steps_of(self, images: int, batch_size: int) -> int:
        """Steps of a trial that are enough for so many images."""
        return self.steps or images * (_GPU_FACTOR if self.gpus else 1) // batch_size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The global batch sizes that are compared."""
        return (64, 256, 1024, 4096) if self.gpus else (64, 256, 1024)


@dataclass(frozen=True)
class Case:
    """A command that is measured: the arguments of a `python` that leaves TRIAL/result.json."""

    name: str
    arguments: list[str]


@dataclass(frozen=True)
class Ratio:
    """A figure of one case divided by the same figure of another."""

    title: str
    over: Case
    under: Case
    figure: str = "images_per_second"


def ratios_of(groups: Sequence[str], conditions: Conditions) -> list[Ratio]:
    """The ratios of these groups that can be measured here."""
    if not (REPOSITORY / "configs").is_dir():
        raise RequestError("configs: not found; run the benchmark in a clone of the repository")
    return [ratio for group in groups for ratio in GROUPS[group](conditions)]


def _loops(at: Conditions) -> Iterator[Ratio]:
    for title, loop in (("document", "document_loop"), ("Accelerate example", "accelerate_loop")):
        other = _baseline(at, loop, at.steps_of(_SLOW, 64), 64)
        yield Ratio(f"images/s at batch 64: job / {title}'s loop", _job(at, 64), other)


def _bare(at: Conditions) -> Iterator[Ratio]:
    for size in at.batch_sizes:
        bare = _baseline(at, "bare_loop", at.steps_of(_FAST, size), size)
        yield Ratio(f"images/s at batch {size}: job / bare PyTorch loop", _job(at, size), bare)


def _limit(at: Conditions) -> Iterator[Ratio]:
    limit = _baseline(at, "arithmetic_limit", 1, 1)
    gradients = _baseline(at, "gradients_alone", at.steps_of(_FAST, 256), 256)
    yield Ratio("images/s at batch 256: whole job / arithmetic limit", _job(at, 256), limit)
    yield Ratio("images/s at batch 256: gradients alone / arithmetic limit", gradients, limit)


def _ddp(at: Conditions) -> Iterator[Ratio]:
    for size in at.batch_sizes:
        ddp = _job(at, size, "train.reduction=ddp")
        yield Ratio(f"images/s at batch {size} on one process: fixed / ddp", _job(at, size), ddp)


def _processes(at: Conditions) -> Iterator[Ratio]:
    if at.gpus == 1:
        return
    for size in at.batch_sizes[1:]:
        one, two = (_job(at, size, "compute.threads=1", processes=n) for n in (1, _PROCESSES))
        yield Ratio(f"images/s at batch {size}, one thread each: 2 processes / 1", two, one)


def _accuracy(at: Conditions) -> Iterator[Ratio]:
    keys = ["log.report=false"]  # The document's loop makes no page either.
    keys += [f"train.max_steps={at.steps}"] if at.steps else []
    job = Case("job, fast recipe", _train(at, "fast", *keys))
    document = _baseline(at, "document_loop_to_accuracy", at.steps or 20 * (_IMAGES // 64), 64)
    title = "seconds to 99.0% test accuracy, start to exit: document's loop / job"
    yield Ratio(title, document, job, "seconds")


def _evaluation(at: Conditions) -> Iterator[Ratio]:
    keys = (
        "data.validation=50000", "train.batch_size=1000", "train.max_steps=100",
        "train.epochs=10", "evaluate.every_epochs=1", "log.report=false",
    )  # fmt: skip
    job = Case("job, evaluation", _train(at, "seed", *keys))
    document = _baseline(at, "document_evaluation", at.steps or 20, 1000)
    title = "images/s evaluated: job / document's loop"
    yield Ratio(title, job, document, "evaluated_per_second")


def _own_model(at: Conditions) -> Iterator[Ratio]:
    program = [str(REPOSITORY / "docs" / "your_own.py")]
    keys = _document_keys(256, at.steps_of(_SLOW, 256))
    many, one = (
        Case(name, _train(at, "seed", *keys, f"train.shards_at_once={number}", program=program))
        for name, number in (("own ResNet, many at once", "auto"), ("own ResNet, one by one", "1"))
    )
    yield Ratio("images/s of your_own.py: many shards at once / one by one", many, one)


def _audit(at: Conditions) -> Iterator[Ratio]:
    audited = _job(at, 256, "compute.audit_every=200")
    yield Ratio(
        "images/s at batch 256: audited / not", audited, _job(at, 256, "compute.audit_every=0")
    )


def _tracking(at: Conditions) -> Iterator[Ratio]:
    untracked = _job(at, 256, "wandb.mode=disabled")
    yield Ratio("images/s at batch 256: tracked offline / untracked", _job(at, 256), untracked)


GROUPS: dict[str, Callable[[Conditions], Iterator[Ratio]]] = {
    "loops": _loops, "bare": _bare, "limit": _limit, "ddp": _ddp, "processes": _processes,
    "accuracy": _accuracy, "evaluation": _evaluation, "own_model": _own_model, "audit": _audit,
    "tracking": _tracking,
}  # fmt: skip
"""What gives the ratios of each group."""


def _job(at: Conditions, size: int, *keys: str, processes: int = 1) -> Case:
    """The job with the document's recipe, tracked offline, without its page."""
    name = ", ".join([f"job, batch {size}", *keys, *["2 processes"] * (processes > 1)])
    keys = (*_document_keys(size, at.steps_of(_FAST, size)), *keys)
    return Case(name, _train(at, "seed", *keys, processes=processes))


def _document_keys(size: int, steps: int) -> tuple[str, ...]:
    return (
        f"train.batch_size={size}", f"train.max_steps={steps}",
        f"train.epochs={steps // (_IMAGES // size) + 1}", f"train.shards={8 if size < 256 else 16}",
        "log.report=false",
    )  # fmt: skip


def _train(
    at: Conditions, config: str, *keys: str, processes: int = 1,
    program: Sequence[str] = ("-m", "lenet_dist.train"),
) -> list[str]:  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [
        *(launcher if processes > 1 else ()), *program,
        "--config", str(REPOSITORY / "configs" / f"{config}.yaml"),
        f"data.root={at.data}", "data.download=false", "wandb.mode=offline",
        "run.root=.", f"run.name={TRIAL}", *keys,
    ]  # fmt: skip


def _baseline(at: Conditions, name: str, steps: int, batch_size: int) -> Case:
    """A loop of baselines.py, by its name."""
    program = ["-m", "lenet_dist.benchmark.baselines", name]
    shown = f"{name.replace('_', ' ')}, batch {batch_size}"
    return Case(shown, [*program, str(at.data), TRIAL, str(batch_size), str(steps)])
