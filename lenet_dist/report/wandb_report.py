"""A W&B Report about one run or several: what the page shows, drawn by W&B from what was logged."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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

_IDS = "wandb-report.json"
"""In the directory of the first run by path: the ids of the reports in which it comes first."""


def parse_project(text: str) -> tuple[str, str]:
    """The entity and the project of ``ENTITY/PROJECT``. Raises RequestError for anything else."""
    entity, _, project = text.partition("/")
    if not entity or not project or "/" in project:
        raise RequestError(f"--wandb {text}: write ENTITY/PROJECT")
    return entity, project


def publish(runs: Sequence[Run], entity: str, project: str) -> str:
    """Publish the report, or update the one published before about these runs; gives its address.

    Raises RequestError if no key is accepted or there is no such project, RunFailed if the server
    can't be reached.
    """
    option = f"--wandb {entity}/{project}"
    file = min(run.path for run in runs) / _IDS
    ids = json.loads(file.read_text()) if file.exists() else {}
    key = f"{entity}/{project}: {', '.join(sorted(run.name for run in runs))}"
    os.environ["WANDB_SILENT"] = "true"
    try:
        api = wandb.Api(timeout=_REQUEST_SECONDS)
        is_there = project in {known.name for known in api.projects(entity)}
        report = _report(runs, entity, project)
        report.id = ids.get(key, "")
        if is_there:
            report.save()
    except UsageError as error:
        raise RequestError(
            f"{option}: no key for W&B: set WANDB_API_KEY, or `wandb login` ({error})"
        ) from None
    except (CommError, ValueError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, AuthenticationError) and "401" in text:
            raise RequestError(f"{option}: W&B refuses the key: {text}") from None
        raise RunFailed(f"{option}: W&B can't be reached: {text}") from None
    if not is_there:
        raise RequestError(
            f"{option}: there is no project of this name that you can see; track a run there to"
            " create it"
        )
    write_atomically(file, (json.dumps(ids | {key: report.id}, indent=1) + "\n").encode())
    return quote(report.url, safe=":/")  # The title is part of the URL.


def _report(runs: Sequence[Run], entity: str, project: str) -> wr.Report:
    ids = ", ".join(f"'{run.wandb_id}'" for run in runs if run.wandb_id)

    def section(title: str, *panels: Any) -> list[Any]:
        """Panels of the runs, three in a row."""
        runset = wr.Runset(
            name="the runs", entity=entity, project=project, filters=f"ID in [{ids}]"
        )
        return [wr.H2(title), wr.PanelGrid(runsets=[runset], panels=list(panels))]

    accuracy = wr.BarPlot(
        title="Test accuracy", metrics=["test/accuracy"], title_x="share of the test images"
    )
    several = section("Side by side", accuracy, wr.RunComparer(diff_only="split"))
    return wr.Report(
        entity=entity,
        project=project,
        title=_title(runs),
        description="Made by python -m lenet_dist.report; the numbers are from metrics.jsonl.",
        blocks=[
            wr.TableOfContents(),
            wr.H2("Result"),
            wr.MarkdownBlock(_results(runs)),
            *(several if len(runs) > 1 else []),
            *section("Training", *_curves(runs)),
            *section("Test", *_test_panels()),
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


def _results(runs: Sequence[Run]) -> str:
    """A row per run, and the spread over seeds where there are several."""
    head = ("run", "seed", "test accuracy", "correct", "loss", "epochs", "processes", "training, s")
    spreads = [
        f"- config {group.name}: mean **{group.mean:.2%}** ± {group.deviation:.2%}"
        f" (standard deviation over {len(group.accuracies)} seeds)"
        for group in comparison.group(list(runs))
        if group.mean is not None and group.deviation is not None
    ]
    lines = [head, ["---"] * len(head), *map(_row, runs)]
    return "\n".join([*(f"| {' | '.join(map(str, line))} |" for line in lines), "", *spreads])


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


def _origin(runs: Sequence[Run]) -> str:
    """A line per complete run: what its result is of."""
    lines = []
    for run in runs:
        if result := run.result:
            versions = ", ".join(f"{part} {version}" for part, version in result.versions.items())
            exact = "bit-exact" if result.bit_exact else "not bit-exact"
            weights, commit = f"weights `{result.weights_sha256}`", f"commit `{result.git_commit}`"
            lines.append(f"- {run.name}: {weights}, {commit}, {exact}; {versions}")
    return "\n".join(lines)


def _curves(runs: Sequence[Run]) -> list[Any]:
    """Curves by step; of the ranks only where a start had several."""
    plots = [
        ("Loss", "cross-entropy", "train/step", ["train/loss"]),
        ("Validation accuracy", "share of the images", "validation/step", ["validation/accuracy"]),
        ("Learning rate", "per step", "train/step", ["train/lr"]),
        ("Throughput", "images/s", "train/step", ["train/samples_per_second"]),
    ]
    if any(start.world_size > 1 for run in runs for start in run.starts):
        computed = ["ranks/computed_ms/slowest", "ranks/computed_ms/median"]
        plots += [
            ("Computed", "ms a step", "train/step", computed),
            ("Waited for other ranks", "ms a step", "train/step", ["ranks/waited_ms/median"]),
        ]
    return [
        wr.LinePlot(
            title=title, x=x, y=y, title_x="step", title_y=unit, log_y=title == "Loss" or None
        )
        for title, unit, x, y in plots
    ]


def _test_panels() -> list[Any]:
    return [
        wr.CustomChart(
            query={"summaryTable": {"tableKey": "test/confusion_table"}},
            chart_name="wandb/confusion_matrix/v1",
            chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
        ),
        wr.BarPlot(
            title="Accuracy by class",
            metrics=[f"test/accuracy_of/{label}" for label in range(10)],
            title_x="share of the class's test images",
        ),
        wr.WeavePanelSummaryTable(table_name="test/mistakes"),
        wr.MediaBrowser(title="Training images, augmented", media_keys=["examples/augmented"]),
    ]
