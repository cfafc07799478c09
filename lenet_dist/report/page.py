"""report.html: one self-contained page about one run or several."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lenet_dist.config import keys, to_yaml, value_of
from lenet_dist.exits import RequestError
from lenet_dist.files import write_atomically
from lenet_dist.report import comparison, curves, pictures
from lenet_dist.report.curves import TRAINING, VALIDATION
from lenet_dist.report.plots import Series
from lenet_dist.run_dir.evaluation import Evaluation
from lenet_dist.run_dir.reader import Run


def write(runs: Sequence[Run], out: Path, data_root: str | None = None) -> Path:
    """Write the page about these runs to `out`, and give that path.

    `data_root`: where the images are, if not where the runs say. Raises RunFailed if the page can't
    be written.
    """
    page = of_run(runs[0], data_root) if len(runs) == 1 else of_runs(runs)
    write_atomically(out, page.encode())
    return out


def of_run(run: Run, data_root: str | None = None) -> str:
    """The page about one run, complete or not. If it can't have pictures, it says why."""
    made, why_no_pictures = None, ""
    try:
        made = pictures.make(*pictures.load(run, data_root))
    except RequestError as reason:
        why_no_pictures = str(reason)
    confusion = run.latest.confusion if run.latest else []
    most, worst = _greatest(confusion)
    return _render(
        "run.html.j2",
        run=run,
        confusion=confusion,
        most=most,
        worst=worst,
        interval=_interval(run.latest),
        plots=curves.of_run(run),
        waits=curves.waits_of(run),
        augmented=any(vars(run.config.augment).values()),
        series=[TRAINING, VALIDATION] if run.validation else [TRAINING],
        pictures=made,
        why_no_pictures=why_no_pictures,
        rerun=rerun_command(run),
        yaml=to_yaml(run.config),
    )


def of_runs(runs: Sequence[Run]) -> str:
    """The page about several runs."""
    groups = comparison.group(list(runs))
    count = Counter(run.name for run in runs)
    rows = [
        # Runs by name, or by folder where a name comes twice.
        (group, run, run.name if count[run.name] == 1 else str(run.path), rerun_command(run))
        for group in groups
        for run in group.runs
    ]
    if len(groups) == 1:
        series = drawn = [Series(number, label) for number, (_, _, label, _) in enumerate(rows)]
    else:
        series = [Series(number, f"{group.name}: {group}") for number, group in enumerate(groups)]
        drawn = [series[groups.index(group)] for group, *_ in rows]
    plots = curves.of_runs([run for _, run, *_ in rows], drawn)
    return _render("runs.html.j2", groups=groups, rows=rows, series=series, plots=plots)


def rerun_command(run: Run) -> str:
    """The command that gives the same bits again, in a run beside this one: a single line.

    It names only what differs from the defaults.
    """
    world_size = run.world_size if run.config.train.reduction == "ddp" else 1
    launcher = f"torchrun --nproc-per-node {world_size}" if world_size > 1 else "accelerate launch"
    values = {key.name: value_of(run.config, key.name) for key in keys()}
    changed = {key.name: values[key.name] for key in keys() if values[key.name] != key.default}
    changed["run.name"] = f"{run.name}-again"
    arguments = [f"{name}={comparison.as_argument(value)}" for name, value in changed.items()]
    return " ".join([launcher, "-m lenet_dist.train", *map(shlex.quote, arguments)])


def _greatest(confusion: list[list[int]]) -> tuple[int, float]:
    """The most often made mistake, and the largest share of a class that is wrong."""
    mistakes = [row[:label] + row[label + 1 :] for label, row in enumerate(confusion)]
    most = max((count for row in mistakes for count in row), default=0)
    shares = [sum(wrong) / max(sum(row), 1) for wrong, row in zip(mistakes, confusion, strict=True)]
    return most, max(shares, default=0.0)


def _interval(evaluation: Evaluation | None) -> tuple[float, float] | None:
    """Wilson's 95 % interval of the accuracy: how far chance in the choice of images reaches."""
    if evaluation is None or not evaluation.count:
        return None
    z, n, p = 1.959964, evaluation.count, evaluation.accuracy
    centre, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return (centre - width) / scale, (centre + width) / scale


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("lenet_dist.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "percent": lambda share: f"{share:.2%}".replace("%", "\u202f%"),
        "duration": _duration,
        "text": comparison.as_argument,
    }
    return environment.get_template(template).render(content)


def _duration(seconds: float) -> str:
    """A duration as people write it: ``0.8 s``, ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
