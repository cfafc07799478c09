"""The run directory: where its files are, and whether a request may continue its run."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from lenet_dist.config import Config, deciding, join_source, split_source, value_of
from lenet_dist.exits import RequestError
from lenet_dist.files import is_special
from lenet_dist.launchers import is_elastic
from lenet_dist.request import load
from lenet_dist.run_dir import lock
from lenet_dist.run_dir.lines import LinesFile

_ELASTIC_PATIENCE_SECONDS = 60


class RunDirectory:
    """A run's directory, ``run.root/run.name``, and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self.path / "config.yaml"
        self.metrics = LinesFile(self.path / "metrics.jsonl")
        self.ranks = LinesFile(self.path / "ranks.jsonl")
        self.starts = LinesFile(self.path / "starts.jsonl")
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "model.safetensors"
        self.result = self.path / "result.json"
        self.report = self.path / "report.html"
        self.stop = self.path / "STOP"
        self.error = self.path / "error.txt"
        self.lock = self.path / ".lock"

    @classmethod
    def of(cls, config: Config) -> RunDirectory:
        """The directory of the run that a config asks for."""
        return cls(Path(config.run.root) / config.run.name)

    def check_is_run(self) -> None:
        """Raise RequestError if it holds no run."""
        if not self.config.exists():
            raise RequestError(f"{self.path}: not a run: it has no config.yaml")

    def completed(self, config: Config) -> dict[str, Any] | None:
        """The result of the run if it is complete, else None. Changes nothing.

        Raises RequestError if it was run with another config, or if run.resume forbids it.
        """
        try:
            has_begun, is_complete = self.config.exists(), self.result.exists()
        except OSError as error:
            raise RequestError(f"run.root={config.run.root}: can't read there: {error}") from None
        if config.run.resume == "never" and has_begun:
            raise RequestError(f"run.resume=never, but {self.path} holds a run that has begun")
        if not is_complete:
            return None
        self.check_is_run()
        if changes := config_changes(load(self.config), config):
            raise RequestError(
                f"{self.path} holds a complete run of another config ({'; '.join(changes)});"
                " choose another run.name, and to begin with the weights of this one add"
                f" run.from={self.path}"
            )
        return self.read_result()

    def read_result(self) -> dict[str, Any]:
        """The content of result.json. Raises RequestError if it is damaged."""
        with suppress(ValueError):
            result = json.loads(self.result.read_bytes())
            if isinstance(result, dict) and result.keys() >= {"test", "weights_sha256"}:
                return result
        raise RequestError(
            f"{self.result}: damaged; remove it, and start the run to have it evaluated"
        )

    def source(self, config: Config) -> str | None:
        """What run.from names, with the SHA-256 of the weights there; None if it names nothing.

        What a run that has begun here began with may be gone. Raises RequestError if there are no
        weights, or not those that the request names by their SHA-256.
        """
        asked = config.run.from_
        if asked is None:
            return None
        begun = load(self.config).run.from_ if self.config.exists() else None
        if asked == begun:
            return asked
        path, wanted = split_source(asked)
        try:
            found = hashlib.sha256(locate_weights(Path(path))[0].read_bytes()).hexdigest()
        except (RequestError, OSError) as error:
            if begun and split_source(begun)[0] == asked:
                return begun
            raise RequestError(f"run.from: {error}") from None
        if wanted and wanted != found:
            raise RequestError(f"run.from={asked}: the weights there have SHA-256 {found}")
        return join_source(path, found)

    def open(self, config: Config) -> Config | None:
        """Take the lock and get ready to begin or to continue.

        Gives the config of the newest start, or None if the run is new. Raises RequestError if
        run.resume forbids it, if another job is using this run, if it can't be written, or if it
        lacks its config.
        """
        if config.run.resume == "must" and not self.config.exists():
            raise RequestError(f"run.resume=must, but {self.path} holds no run")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # An elastic launcher may start the job here before its earlier main process, on a
            # machine that was lost, is quite gone.
            lock.hold(self.lock, _ELASTIC_PATIENCE_SECONDS if is_elastic() else 0)
        except OSError as error:
            raise RequestError(f"run.root={config.run.root}: can't write there: {error}") from None
        if self.config.exists():
            return load(self.config)
        if complete_checkpoints(self.checkpoints):
            raise RequestError(
                f"{self.path} holds checkpoints but no config.yaml: restore it,"
                " or choose another run.name"
            )
        return None

    def renew_wandb_id(self) -> None:
        """Give the run, and all its later starts, a new id on W&B.

        Raises RequestError if the run is being trained.
        """
        lock.hold(self.lock)
        wandb_id = secrets.token_hex(4)
        self.starts.replace([start | {"wandb_id": wandb_id} for start in self.starts.read()])

    def gain(self) -> tuple[int, int]:
        """The step at which the last start began, and that of the newest checkpoint."""
        starts, saved = self.starts.read(), complete_checkpoints(self.checkpoints)
        return starts[-1]["step"] if starts else 0, saved[-1][0] if saved else 0


def complete_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of each checkpoint that was renamed into place, newest last."""
    entries = folder.iterdir() if folder.is_dir() else ()
    named = ((re.fullmatch(r"step-(\d{8,})", entry.name), entry) for entry in entries)
    return sorted((int(name[1]), entry) for name, entry in named if name)


def config_changes(before: Config, now: Config) -> list[str]:
    """The keys that differ and decide the result, as ``key: before -> now``."""
    old, new = (deciding(config) for config in (before, now))
    changed = [name for name in new if old[name] != new[name]]
    return [f"{name}: {value_of(before, name)} -> {value_of(now, name)}" for name in changed]


def refusal(path: Path, differences: list[str]) -> str:
    """Why a run can't go on as asked, and what to do."""
    return (
        f"{path} holds a run that would not continue with the same bits ({'; '.join(differences)});"
        " request what it began with, choose another run.name,"
        " or write run.inexact=true to continue anyway"
    )


def locate_weights(target: Path) -> tuple[Path, Path | None]:
    """The weights file and the config file of a completed run; `target` and None for a file.

    Raises RequestError naming what is missing.
    """
    if target.is_dir():
        run = RunDirectory(target)
        run.check_is_run()
        if not run.weights.exists():
            raise RequestError(
                f"{target}: this run is not complete: it has no model.safetensors yet"
            )
        if run.result.exists():
            expected = run.read_result()["weights_sha256"]
            if hashlib.sha256(run.weights.read_bytes()).hexdigest() != expected:
                raise RequestError(f"{run.weights}: not the weights of {run.result}: SHA-256")
        return run.weights, run.config
    if not target.exists():
        raise RequestError(f"{target}: no such run or weights file")
    if is_special(target):
        raise RequestError(f"{target}: a pipe or a device; name a file")
    return target, None
