"""A W&B Report about one run or several: what the page shows, drawn by W&B from what was logged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import wandb
import wandb_workspaces.reports.v2 as wr
from wandb.errors import AuthenticationError, CommError, UsageError

from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import write_atomically
from lenet_dist.report import comparison
from lenet_dist.report.page import rerun_command
from lenet_dist.run_dir.reader import Run

_REQUEST_SECONDS = 15

_KEPT = "wandb-report.json"
"""In the directory of the first run by path: the ids of the reports in which it comes first."""

_WIDTH, _HEIGHT = 12, 8
"""Of a panel, in W&B's units: a row is 24 wide."""


@dataclass(frozen=True)
class Project:
    """A project on W&B, and the entity that it belongs to."""

    entity: str
    name: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.name}"


def parse_project(text: str) -> Project:
    """``ENTITY/PROJECT``. Raises RequestError for anything else."""
    parts = text.split("/")
    if len(parts) != 2 or not all(parts):
        raise RequestError(f"--wandb {text}: write ENTITY/PROJECT")
    return Project(*parts)


def write_spec(runs: Sequence[Run], project: Project | None, file: Path) -> None:
    """Write what would be published, as JSON, without asking a server.

    If `project` is None, it is the one of the first run's config.
    """
    wanted = runs[0].config.wandb
    project = project or Project(wanted.entity or "", wanted.project)
    # A run set that names its project asks the server for the project's number.
    model = _report(runs, project, Project("", ""))._to_model()
    spec = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    for block in spec["spec"]["blocks"]:
        for runset in block.get("metadata", {}).get("runSets", []):
            runset["project"] = {"entityName": project.entity, "name": project.name}
    write_atomically(file, (json.dumps(spec, indent=1) + "\n").encode())


def publish(runs: Sequence[Run], project: Project) -> str:
    """Publish the report, or update the one published before about these runs; gives its address.

    Raises RequestError if no key is accepted or there is no such project, RunFailed if the server
    can't be reached.
    """
    kept = min(run.path for run in runs) / _KEPT
    reports = json.loads(kept.read_text()) if kept.exists() else {}
    key = f"{project}: {', '.join(sorted(run.name for run in runs))}"
    os.environ["WANDB_SILENT"] = "true"
    try:
        api = wandb.Api(timeout=_REQUEST_SECONDS)
        is_there = project.name in {found.name for found in api.projects(project.entity)}
        report = _report(runs, project, project)
        report.id = reports.get(key, "")
        if is_there:
            report.save()
    except UsageError as error:
        raise RequestError(
            f"--wandb {project}: no key for W&B: set WANDB_API_KEY, or `wandb login` ({error})"
        ) from None
    except (CommError, ValueError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, AuthenticationError) and "401" in text:
            raise RequestError(f"--wandb {project}: W&B refuses the key: {text}") from None
        raise RunFailed(f"--wandb {project}: W&B can't be reached: {text}") from None
    if not is_there:
        raise RequestError(
            f"--wandb {project}: there is no project of this name that you can see; track a run"
            " there to create it"
        )
    write_atomically(kept, (json.dumps(reports | {key: report.id}, indent=1) + "\n").encode())
    return quote(report.url, safe=":/")  # The title is part of the URL.


def _report(runs: Sequence[Run], project: Project, runsets_project: Project) -> wr.Report:
    ids = ", ".join(f"'{identity}'" for run in runs if (identity := run.wandb_id))

    def panels(*drawn: Any) -> wr.PanelGrid:
        shown = wr.Runset(
            name="the runs",
            entity=runsets_project.entity,
            project=runsets_project.name,
            filters=f"ID in [{ids}]",
        )
        return wr.PanelGrid(runsets=[shown], panels=_laid_out(drawn))

    several = [wr.H2("Side by side"), panels(*_comparison())] if len(runs) > 1 else []
    return wr.Report(
        entity=project.entity,
        project=project.name,
        title=_title(runs),
        description="Made by python -m lenet_dist.report; the numbers are from metrics.jsonl.",
        blocks=[
            wr.TableOfContents(),
            wr.H2("Result"),
            wr.MarkdownBlock(_summary(runs)),
            *several,
            wr.H2("Training"),
            panels(*_curves()),
            wr.H2("Test"),
            panels(*_test()),
            wr.H2("Rerun"),
            wr.P("In a checkout of the project; any number of processes gives the same bits."),
            wr.CodeBlock("\n".join(rerun_command(run) for run in runs)),
            wr.H2("Origin"),
            wr.MarkdownBlock(_origin(runs)),
        ],
    )


def _title(runs: Sequence[Run]) -> str:
    data = runs[0].data_name
    if len(runs) > 1:
        return f"LeNet-5 on {data}: {len(runs)} runs"
    result = runs[0].result
    accuracy = f"{result.test.accuracy:.2%} of the test images" if result else "not complete"
    return f"{runs[0].name}: {runs[0].model_name} on {data}, {accuracy}"


def _summary(runs: Sequence[Run]) -> str:
    """A row per run, and the spread over seeds where there are several."""
    head = ("run", "seed", "test accuracy", "correct", "loss", "epochs", "processes", "training, s")
    spreads = [
        f"- config {group.name}: mean **{group.mean:.2%}** ± {group.deviation:.2%}"
        f" (standard deviation over {len(group.accuracies)} seeds)"
        for group in comparison.group(list(runs))
        if group.mean is not None and group.deviation is not None
    ]
    return "\n".join([_table(head, map(_row, runs)), "", *spreads])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _row(run: Run) -> list[object]:
    result, first = run.result, [run.name, run.config.seed]
    if not result:
        return [*first, f"not complete: step {run.saved_step:,}", *[""] * 5]
    test = result.test
    return [
        *first, f"**{test.accuracy:.2%}**", f"{test.correct:,} of {test.count:,}",
        f"{test.loss:.4f}", f"{result.epochs:g}", f"{result.world_size} x {result.device}",
        f"{result.seconds['train']:.0f}",
    ]  # fmt: skip


def _curves() -> list[Any]:
    def line(title: str, unit: str, *metrics: str, log: bool | None = None) -> wr.LinePlot:
        step = f"{metrics[0].partition('/')[0].replace('ranks', 'train')}/step"
        return wr.LinePlot(
            title=title, x=step, y=list(metrics), title_x="step", title_y=unit, log_y=log
        )

    return [
        line("Loss", "cross-entropy", "train/loss", log=True),
        line("Validation accuracy", "share of the images", "validation/accuracy"),
        line("Learning rate", "per step", "train/lr"),
        line("Throughput", "images/s", "train/samples_per_second"),
        line("Computed", "ms a step", "ranks/computed_ms/slowest", "ranks/computed_ms/median"),
        line("Waited for other ranks", "ms a step", "ranks/waited_ms/median"),
    ]


def _test() -> list[Any]:
    cells = {name: name for name in ("Actual", "Predicted", "nPredictions")}
    return [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "test/confusion_table"}},
            chart_name="wandb/confusion_matrix/v1",
            chart_fields=cells,
        ),
        wr.BarPlot(
            title="Accuracy by class",
            metrics=[f"test/accuracy_of/{label}" for label in range(10)],
            title_x="share of the class's test images",
        ),
        wr.WeavePanelSummaryTable(table_name="test/mistakes"),
        wr.MediaBrowser(title="Training images, augmented", media_keys=["examples/augmented"]),
    ]


def _comparison() -> list[Any]:
    return [
        wr.BarPlot(
            title="Test accuracy", metrics=["test/accuracy"], title_x="share of the test images"
        ),
        wr.RunComparer(diff_only="split"),
    ]


def _laid_out(panels: Sequence[Any]) -> list[Any]:
    """Two in a row."""
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        panel.layout = wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT)
    return list(panels)


def _origin(runs: Sequence[Run]) -> str:
    head = ("run", "weights, SHA-256", "commit", "bit-exact", "versions")
    results = [(run.name, run.result) for run in runs if run.result]
    return _table(head, [
        (name, f"`{r.weights_sha256}`", f"`{r.git_commit}`", "yes" if r.bit_exact else "no",
         ", ".join(f"{part} {version}" for part, version in r.versions.items()))
        for name, r in results
    ])  # fmt: skip
