"""Weights & Biases: one W&B run for each run of ours, however often it is interrupted.

Each line of metrics.jsonl is one row of W&B's history. Online, the server's count of rows says
which line comes next. Offline, each start writes the whole run anew, without `resume`, so that
`wandb sync` overwrites what the server may have of it. No line is lost or there twice, however a
start ended. When a run resumes from an earlier checkpoint, W&B keeps the rows after it: the lines
that are written again have the same numbers.

Only W&B's public interface is used. It does not tell whether uploads succeeded, so the server is
asked at the end.
"""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from lenet_dist.config import Config, as_dict
from lenet_dist.files import is_disk_full, share_as_folder
from lenet_dist.run_dir.lines import Line
from lenet_dist.track import sample_images
from lenet_dist.track.environment import wandb_mode
from lenet_dist.track.follower import catch_up_advice
from lenet_dist.track.tracker import Ending, one_line, rank_metrics

_INIT_SECONDS = 8
_FINISH_SECONDS = 15
_ASK_SECONDS = 3
"""Longest waits for the server; together they must fit into what an ending allows."""

_MOST_ERRORS = 3
"""After the first it restarts; after the second at the latest, offline."""

_ARTIFACT_CHARACTERS = 128
_POSITION = ("kind", "step", "epoch", "samples")


class WandbTracker:
    """Feeds W&B. `pid`: the process whose use of the machine is recorded; None: record none."""

    is_up_to_date = False
    lines = 0
    _wandb: wandb.Run
    _was_disk_full = False

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
        self._sweep = start.get("sweep") or {"id": None, "values": {}}
        self._errors = 0
        self._mode, self._reason = wandb_mode(config), ""
        if self._mode == "auto":
            self._mode, self._reason = _mode_of_wandbs_own()
        self._begin()

    def log(self, line: Line) -> None:
        try:
            if self._mode != "disabled":
                panels = self._test_panels(line) if line["kind"] == "test" else {}
                self._wandb.log(_row(line) | panels)
                self._was_disk_full = self._was_disk_full or is_disk_full(self._run / "wandb")
            self.lines += 1
        except Exception as error:
            self._restart(error)

    def finish(self, ending: Ending, result: dict[str, Any] | None) -> None:
        if self._mode == "disabled":
            self.is_up_to_date = True
            return
        # Whatever W&B thinks of a name or a file: the rows and the end arrive.
        for describe in (self._describe_end, self._publish_model):
            try:
                describe(ending, result)
            except Exception as error:
                self._say(f"W&B: part of the end's description is missing: {one_line(error)}")
        codes = {"completed": 0, "stopped": 75, "incomplete": 75}
        problem = ""
        try:
            self._wandb.finish(codes.get(ending.kind, 1))
            if self._mode == "offline":
                wandb.teardown()  # Waits until W&B's own process has written everything.
        except TimeoutError:
            problem = f"not done in {_FINISH_SECONDS} s"
        share_as_folder(self._run / "wandb")
        if self._was_disk_full:
            problem = f"can't write everything to {self._run / 'wandb'}: its disk is full"
        if self._mode == "online":
            problem = problem or self._missing()
            self.is_up_to_date = not problem
        if problem:
            self._say(f"W&B: {problem}; {catch_up_advice(self._run)}")
        elif self._mode == "offline":
            why = f" ({self._reason})" if self._reason else ""
            folder = shlex.quote(str(self._run / "wandb"))
            self._say(f"W&B: kept offline{why}; upload later with: wandb sync {folder}")

    def _missing(self) -> str:
        """Why the server is not certain to have all rows, by its own count; empty if it is."""
        place, deadline = self._wandb.path, time.monotonic() + _ASK_SECONDS
        try:
            there = wandb.Api(timeout=_ASK_SECONDS).run(place)
            while (rows := there.lastHistoryStep + 1) < self.lines:
                if time.monotonic() > deadline:
                    return f"its server has {rows} of {self.lines} rows so far"
                time.sleep(0.2)
        except Exception as error:
            return f"whether all was uploaded is not known: {one_line(error)}"
        return ""

    def _begin(self) -> None:
        self._was_disk_full = False
        self.lines = 0
        if self._mode == "disabled":
            return
        try:
            _put_away_segments(self._run / "wandb")
            self._wandb = wandb.init(settings=self._settings())
            config = as_dict(self._config) | {"world_size": self._start["world_size"]}
            self._wandb.config.update(self._sweep["values"] | config, allow_val_change=True)
            for kind in ("train", "validation", "test"):
                self._wandb.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
            self._wandb.define_metric("ranks/*", step_metric="train/step")
            self.lines = self._wandb.starting_step
            share_as_folder(self._run / "wandb")  # Some of its files W&B makes for one user only.
        except Exception as error:
            self._restart(error)
            return
        if self._mode == "online":
            self._say(f"W&B: {self._wandb.url}")
            if self._errors:
                self._say(f"W&B: {self._reason}")

    def _restart(self, error: Exception) -> None:
        """Begin again; offline if the server is to blame or the first restart did not help."""
        self._errors += 1
        if _is_deleted(error):
            raise wandb.errors.CommError(
                f"run {self._start['wandb_id']} was deleted on W&B, and its id can't be used again;"
                " to go on under a new id, add --new-id to the command"
            )
        if self._errors > _MOST_ERRORS:
            raise error
        with suppress(Exception, SystemExit):  # Where its own process was killed, it exits too.
            wandb.teardown()
        self._reason = f"restarted after {one_line(error)}"
        if self._errors > 1 or isinstance(error, wandb.errors.CommError):
            self._mode = "offline"
        self._begin()

    def _settings(self) -> wandb.Settings:
        chosen = self._config.wandb
        return wandb.Settings(
            mode=self._mode,  # type: ignore[arg-type]
            project=chosen.project,
            entity=chosen.entity,
            run_group=chosen.group,
            run_tags=tuple(chosen.tags),
            run_job_type="train",
            run_name=self._config.run.name,
            run_id=self._start["wandb_id"],
            sweep_id=self._sweep["id"],
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            root_dir=str(self._run),
            program="-m lenet_dist.train",
            console="off",
            disable_code=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
            # A stop requested on W&B's page concerns only the tracker: training goes on.
            stop_fn=lambda: None,
            x_disable_stats=self._pid is None,
            x_stats_pid=self._pid or 0,
        )

    def _describe_end(self, ending: Ending, result: dict[str, Any] | None) -> None:
        run, name = self._wandb, self._config.run.name
        if ending.kind == "stopped":
            run.alert(f"{name} was preempted", ending.reason, level="INFO")
            run.mark_preempting()
        elif ending.kind in ("failed", "lost"):
            reason = ending.reason or "its main process was lost"
            run.alert(f"{name} failed", reason, level="ERROR")
        elif result:
            provenance = ("device", "threads", "versions", "data_sha256", "git_commit")
            run.config.update({key: result[key] for key in provenance}, allow_val_change=True)
            facts = ("parameters", "steps", "resumes", "bit_exact", "weights_sha256", "seconds")
            run.summary.update({key: result[key] for key in facts})

    def _publish_model(self, ending: Ending, result: dict[str, Any] | None) -> None:
        if result is None:
            return
        # A run's name may have letters that an artifact's may not, or more of them.
        end = f"-{self._wandb.id}"
        name = re.sub(r"[^\w.-]", "-", self._config.run.name, flags=re.ASCII)
        name = name[: _ARTIFACT_CHARACTERS - len(end)] + end
        model = wandb.Artifact(name, type="model", metadata=result)
        for file in ("model.safetensors", "config.yaml", "result.json"):
            model.add_file(str(self._run / file))
        # A run publishes one model, the one that was tested.
        self._wandb.log_artifact(model, aliases=["latest", "best"])

    def _test_panels(self, line: Line) -> dict[str, Any]:
        images = sample_images.of_run(self._run, self._config)
        return _confusion(line) | (_image_panels(images) if images else {})


def _put_away_segments(folder: Path) -> None:
    """Move the segments of earlier starts to RUN/wandb/earlier, out of the way of `wandb sync`."""
    earlier = folder / "earlier"
    earlier.mkdir(parents=True, exist_ok=True)
    for segment in folder.glob("*run-*-*"):
        if not segment.is_symlink():
            # Numbered, because W&B names folders by the second.
            segment.rename(earlier / f"{len(list(earlier.iterdir()))}-{segment.name}")


def _mode_of_wandbs_own() -> tuple[str, str]:
    """The mode by W&B's own settings and keys, and the reason if it is not online."""
    settings = wandb.setup().settings
    if settings.mode != "online":
        return settings.mode, f"by W&B's settings, as after `wandb {settings.mode}`"
    try:
        if wandb.login(prompt=False, verify=False):
            return "online", ""
    except wandb.errors.Error as error:
        return "offline", one_line(error)
    return "offline", f"no key for {settings.base_url}"


def _is_deleted(error: Exception) -> bool:
    """Whether the server refuses a run's id because the run was deleted."""
    return isinstance(error, wandb.errors.CommError) and bool(re.search(r"\b409\b", str(error)))


def _row(line: Line) -> dict[str, Any]:
    """A line as a row of history: its numbers, with the line's kind or ``ranks`` in their names."""
    kind = line["kind"]
    row = {f"{kind}/step": line["step"], "epoch": line["epoch"], "samples": line["samples"]}
    for name, value in line.items():
        if name not in _POSITION and isinstance(value, int | float):
            row[f"{kind}/{name}"] = value
    for label, accuracy in enumerate(line.get("per_class_accuracy", []) if kind == "test" else []):
        if accuracy is not None:
            row[f"test/accuracy_of/{label}"] = accuracy
    return row | rank_metrics(line)


def _confusion(line: Line) -> dict[str, Any]:
    counts = np.array(line["confusion"])
    truth, predictions = (
        np.repeat(labels, counts.ravel()).tolist()
        for labels in np.indices(counts.shape).reshape(2, -1)
    )
    names = [str(label) for label in range(len(counts))]
    chart = wandb.plot.confusion_matrix(y_true=truth, preds=predictions, class_names=names)
    return {"test/confusion": chart}


def _image_panels(images: sample_images.SampleImages) -> dict[str, Any]:
    columns = ("label", "prediction", "probability")
    values = (images[name].tolist() for name in columns)
    mistakes = zip(map(wandb.Image, images["mistake"]), *values, strict=True)
    return {
        "test/mistakes": wandb.Table(["image", *columns], list(map(list, mistakes))),
        "examples/augmented": [wandb.Image(image) for image in images["augmented"]],
    }
