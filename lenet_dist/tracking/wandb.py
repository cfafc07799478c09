"""Weights & Biases: one W&B run for each run of ours, however often it is interrupted.

Each line of metrics.jsonl is one row of W&B's history, and W&B's own count of rows says which line
comes next: the server's count online, that of the files in the run directory offline. So no line is
lost or sent twice, however a start ended. When a run resumes from an earlier checkpoint, W&B keeps
the rows after it: the lines that are written again have the same numbers.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import wandb
from numpy.typing import NDArray
from wandb.util import get_core_path

from lenet_dist.config import Config
from lenet_dist.run.lines import Line
from lenet_dist.tracking.ending import Ending, Pictures
from lenet_dist.tracking.environment import wandb_mode
from lenet_dist.tracking.follower import catch_up_advice
from lenet_dist.tracking.ranks import numbers
from lenet_dist.tracking.segments import Segment, lines_in, segments
from lenet_dist.tracking.tracker import in_words

_INIT_SECONDS = 8
_FINISH_SECONDS = 18
"""Longest waits for the server; together they must fit into what an ending allows."""

_ERRORS_BORNE = 3
"""After the first it begins again; after the second at the latest, offline."""

_POSITION = ("kind", "step", "epoch", "samples")
_UPLOADERS = ("filestream:", "runupserter:", "runfiles:", "fileTransfer:", "sender:")
"""W&B's components whose errors mean that something did not arrive. They retry before they log an
error, and W&B reports it nowhere but in its log."""


class WandbTracker:
    """Feeds W&B. `pid`: the process whose use of the machine is recorded; None: record none."""

    is_up_to_date = False

    def __init__(
        self,
        run: Path,
        config: Config,
        start: dict[str, Any],
        pid: int | None,
        say: Callable[[str], None],
    ) -> None:
        logging.raiseExceptions = False  # W&B logs into its own folder, whose disk may be full.
        self._run, self._config, self._start, self._pid, self._say = run, config, start, pid, say
        self._core = get_core_path()
        self._errors = 0
        self._why_offline = ""
        self._mode = wandb_mode(config)
        if self._mode == "auto":
            host = wandb.setup().settings.base_url
            self._mode = "online" if _has_key(host) else "offline"
            self._why_offline = "" if self._mode == "online" else f"no key for {host}"
        try:
            self._begin()
        except Exception as error:
            self.recover(error)

    def log(self, line: Line, pictures: Pictures | None) -> None:
        panels = _confusion(line) if line["kind"] == "test" else {}
        self._wandb.log(_row(line) | panels | (_images(pictures) if pictures else {}))
        self.lines += 1
        self._logged += 1

    def recover(self, error: Exception) -> None:
        """Begin again; offline if the server is to blame or beginning again did not help."""
        self._errors += 1
        if self._errors > _ERRORS_BORNE:
            raise error
        what = in_words(error)
        with suppress(Exception):
            wandb.teardown()
        if self._errors > 1 or isinstance(error, wandb.errors.CommError):
            self._mode, self._why_offline = "offline", what
        try:
            self._begin()
        except Exception as again:
            self.recover(again)
            return
        if self._mode == "online":
            self._say(f"W&B: restarted after {what}")
        else:
            self._why_offline = self._why_offline or f"restarted after {what}"

    def finish(self, ending: Ending, result: dict[str, Any] | None) -> None:
        self._describe_end(ending, result)
        codes = {"completed": 0, "stopped": 75, "incomplete": 75}
        try:
            self._wandb.finish(codes.get(ending.kind, 1))
            missing = _upload_error(Path(self._wandb.settings.log_internal))
        except TimeoutError:
            missing = f"not done in {_FINISH_SECONDS} s"
        here = Segment(Path(self._wandb.settings.sync_dir))
        content = here.read(self._core)
        if not content.is_whole or len(content.steps) != self._logged:
            missing = missing or f"can't write everything to {self._run / 'wandb'}"
        self.is_up_to_date = not (missing or self._why_offline)
        if here.is_online and not missing:
            here.hide()
        elif missing or self._has_parts_on_the_way():
            # `wandb sync` would stop at such a part, or send the server what it already has.
            why = missing or self._why_offline or "part of the run is not uploaded"
            self._say(f"W&B: {why}; {catch_up_advice(self._run)}")
        else:
            why = f" ({self._why_offline})" if self._why_offline else ""
            folder = shlex.quote(str(self._run / "wandb"))
            self._say(f"W&B: kept offline{why}; upload later with: wandb sync {folder}")

    def _begin(self) -> None:
        earlier = segments(self._run, self._start["wandb_id"])
        self._wandb = wandb.init(settings=self._settings())
        circumstances = {"world_size": self._start["world_size"]}
        self._wandb.config.update(asdict(self._config) | circumstances, allow_val_change=True)
        for kind in ("train", "validation", "test"):
            self._wandb.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        self._wandb.define_metric("ranks/*", step_metric="train/step")
        self._logged = 0
        if self._mode == "offline":
            self.lines = lines_in(earlier, self._core)
            return
        self.lines = self._wandb.starting_step
        for part in earlier:
            part.hide()
        self._say(f"W&B: {self._wandb.url}")

    def _settings(self) -> wandb.Settings:
        wanted = self._config.wandb
        settings = wandb.Settings(
            mode=self._mode,  # type: ignore[arg-type]
            project=wanted.project,
            entity=wanted.entity,
            run_group=wanted.group,
            run_tags=tuple(wanted.tags),
            run_job_type="train",
            run_name=self._config.run.name,
            run_id=self._start["wandb_id"],
            resume="allow",
            reinit="create_new",
            root_dir=str(self._run),
            program="-m lenet_dist.train",
            console="off",
            disable_code=True,
            disable_job_creation=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
            # A stop requested on W&B's page concerns only the tracker: training goes on.
            stop_fn=lambda: None,
        )
        if self._pid is None:
            settings.x_disable_stats = True
        else:
            settings.x_stats_pid = self._pid
        return settings

    def _describe_end(self, ending: Ending, result: dict[str, Any] | None) -> None:
        run = self._wandb
        name = self._config.run.name
        if ending.kind == "stopped":
            run.alert(f"{name} was preempted", ending.reason, level="INFO")
            run.mark_preempting()
        elif ending.kind in ("failed", "lost"):
            reason = ending.reason or "its main process was lost"
            run.alert(f"{name} failed", reason, level="ERROR")
        elif result:
            circumstances = ("device", "threads", "versions", "data_sha256", "git_commit")
            run.config.update({key: result[key] for key in circumstances}, allow_val_change=True)
            facts = ("parameters", "steps", "resumes", "bit_exact", "weights_sha256", "seconds")
            run.summary.update({key: result[key] for key in facts})
            model = wandb.Artifact(f"{name}-{run.id}", type="model", metadata=result)
            for file in ("model.safetensors", "config.yaml", "result.json"):
                model.add_file(str(self._run / file))
            # A run publishes one model, the one that was tested.
            run.log_artifact(model, aliases=["latest", "best"])

    def _has_parts_on_the_way(self) -> bool:
        parts = segments(self._run, self._start["wandb_id"])
        on_the_way = (part for part in parts if part.is_online and not part.is_hidden)
        return any(part.read(self._core).steps for part in on_the_way)


def _has_key(host: str) -> bool:
    """Whether there is a key for the server, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(file).authenticators(urlsplit(host).netloc) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _upload_error(log: Path) -> str:
    """W&B's last upload error, or an empty string."""
    lines = [json.loads(text) for text in log.read_text().splitlines() if text.endswith("}")]
    errors = [line for line in lines if line["level"].startswith("ERROR")]
    told = [line["msg"] for line in errors if line["msg"].startswith(_UPLOADERS)]
    return " ".join(told[-1].split())[:200] if told else ""


def _row(line: Line) -> dict[str, Any]:
    """A line as a row of history: its numbers, with the line's kind or ``ranks`` in their names."""
    kind = line["kind"]
    row = {f"{kind}/step": line["step"], "epoch": line["epoch"], "samples": line["samples"]}
    of_line = {n: v for n, v in line.items() if n not in _POSITION and isinstance(v, int | float)}
    row |= {f"{kind}/{name}": value for name, value in of_line.items()} | numbers(line)
    if kind == "test":
        of_classes = enumerate(line["per_class_accuracy"])
        row |= {
            f"test/accuracy_of/{label}": share for label, share in of_classes if share is not None
        }
    return row


def _confusion(line: Line) -> dict[str, Any]:
    names: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    cells = [
        [str(label), str(prediction), count]
        for label, row in enumerate(line["confusion"])
        for prediction, count in enumerate(row)
    ]
    shown = {str(name): str(name) for name in names}
    table = wandb.Table(names, cells)
    return {"test/confusion": wandb.plot_table("wandb/confusion_matrix/v1", table, shown)}


def _images(pictures: Pictures) -> dict[str, Any]:
    mistakes = [[wandb.Image(p.pixels), *p[1:]] for p in pictures.mistakes]
    return {
        "test/mistakes": wandb.Table(["image", "label", "prediction", "probability"], mistakes),
        "examples/augmented": wandb.Image(
            _sheet(pictures.augmented), caption="as epoch 1 saw them"
        ),
    }


def _sheet(images: list[NDArray[np.uint8]], columns: int = 8) -> NDArray[np.uint8]:
    """The images as one image, in rows of `columns`."""
    rows = [np.hstack(images[i : i + columns]) for i in range(0, len(images), columns)]
    return np.vstack([row for row in rows if len(row[0]) == len(rows[0][0])])
