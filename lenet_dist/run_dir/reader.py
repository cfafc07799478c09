"""Read and check a run on disk. Nothing is written, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from lenet_dist.config import Config
from lenet_dist.data.dataset import CLASS_NAMES, NAMES
from lenet_dist.exits import RequestError
from lenet_dist.model.lenet5 import PARAMETERS
from lenet_dist.plan import Plan, validate
from lenet_dist.request import load
from lenet_dist.run_dir.directory import RunDirectory, complete_checkpoints
from lenet_dist.run_dir.evaluation import Evaluation
from lenet_dist.run_dir.lines import Line, LinesFile
from lenet_dist.system import Place

_Schema = TypeVar("_Schema")


@dataclass(frozen=True)
class TrainLine:
    """A train line: means over the steps since the line before."""

    step: int
    loss: float
    """Cross-entropy."""
    accuracy: float
    lr: float
    samples_per_second: float


@dataclass(frozen=True)
class RanksLine:
    """The seconds that each rank, by number, computed and waited for others in these many steps,
    up to `step`."""

    step: int
    steps: int
    computed: list[float]
    waited: list[float]


@dataclass(frozen=True)
class EvaluationLine(Evaluation):
    """An evaluation after `step` steps."""

    step: int


@dataclass(frozen=True)
class Start:
    """One start of the run: from which step, on how many processes, when and where."""

    step: int
    world_size: int
    time: str
    wandb_id: str
    places: list[Place]
    own_images: int | None = None
    """Training images of a task's own data set; None for one that the config names."""


@dataclass(frozen=True)
class Result:
    """The result of a completed run; seconds by part, versions by name."""

    test: Evaluation
    validation: Evaluation | None
    parameters: int
    steps: int
    epochs: float
    weights_sha256: str
    bit_exact: bool
    world_size: int
    device: str
    precision: str
    threads: int
    seconds: dict[str, float]
    samples_per_second: float
    config_hash: str
    data_sha256: str
    versions: dict[str, str | None]
    git_commit: str | None
    hardware: str


@dataclass(frozen=True)
class Run:
    """A run directory's content. `result`: None until the run is complete."""

    path: Path
    config: Config
    plan: Plan
    train: list[TrainLine]
    validation: list[EvaluationLine]
    ranks: list[RanksLine]
    starts: list[Start]
    saved_step: int
    """The step of the newest checkpoint; 0: none."""
    result: Result | None

    @property
    def name(self) -> str:
        return self.config.run.name

    @property
    def model_name(self) -> str:
        """The model's common name, as far as the result tells."""
        is_other = self.result is not None and self.result.parameters != PARAMETERS
        return "another model" if is_other else "LeNet-5"

    @property
    def data_name(self) -> str:
        """The data set's name, as people write it."""
        is_own = bool(self.starts) and self.starts[0].own_images is not None
        return "a data set of its own" if is_own else NAMES[self.config.data.name]

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the labels."""
        named = CLASS_NAMES.get(self.config.data.name, ())
        count = len(self.latest.confusion) if self.latest else 0
        is_named = self.data_name == NAMES[self.config.data.name] and len(named) == count
        return list(named) if is_named else [str(label) for label in range(count)]

    @property
    def interruptions(self) -> list[int]:
        """The steps from which it resumed after an interruption."""
        return [start.step for start in self.starts[1:]]

    @property
    def wandb_id(self) -> str:
        """The run's id on W&B; empty if it never had one."""
        return self.starts[-1].wandb_id if self.starts else ""

    @property
    def world_size(self) -> int:
        """Number of processes at the newest start."""
        return self.starts[-1].world_size if self.starts else 1

    @property
    def latest(self) -> Evaluation | None:
        """The test evaluation if the run is complete, else the newest validation."""
        if self.result:
            return self.result.test
        return self.validation[-1] if self.validation else None


def read(path: Path) -> Run:
    """The run in a directory, as far as it has come.

    Raises RequestError naming the path if it is not a run, or the file and line that are damaged.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such run")
    run = RunDirectory(path)
    run.check_is_run()
    config = load(run.config)
    starts = _typed(Start, run.starts)
    has_result = run.result.exists()
    return Run(
        path=path,
        config=config,
        plan=validate(config, 1, starts[0].own_images if starts else None),
        train=_typed(TrainLine, run.metrics, "train"),
        validation=_typed(EvaluationLine, run.metrics, "validation"),
        ranks=_typed(RanksLine, run.ranks),
        starts=starts,
        saved_step=max((step for step, _ in complete_checkpoints(run.checkpoints)), default=0),
        result=_checked(TypeAdapter(Result), run.read_result(), run.result) if has_result else None,
    )


def _typed(schema: type[_Schema], file: LinesFile, kind: str | None = None) -> list[_Schema]:
    """A file's lines as dataclasses: all, or those of a kind."""
    adapter = TypeAdapter(schema)
    return [
        _checked(adapter, line, f"{file.path}, line {number}")
        for number, line in enumerate(file.read(), start=1)
        if kind in (None, line.get("kind"))
    ]


def _checked(adapter: TypeAdapter[_Schema], content: Line, where: object) -> _Schema:
    """Parsed JSON as a dataclass; keys that it does not have are left out.

    Raises RequestError saying where a value is missing or of the wrong type.
    """
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        why = "missing" if first["type"] == "missing" else "damaged"
        raise RequestError(": ".join(map(str, [where, *first["loc"], why]))) from None
