"""Checkpoints, used only if whole and verified. Tensors are safetensors, the rest is JSON.

A checkpoint of step k means that k steps are done and the evaluation due after them is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from lenet_dist.exits import RequestError
from lenet_dist.files import failures_named, sync_folder, write_folder
from lenet_dist.run_dir.directory import complete_checkpoints

_CHECKPOINTS_STAND = (
    "; the checkpoints before it are intact: fix that, then run the same command again to continue"
)
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Weights, optimizer tensors, and `state`: all that fits into JSON, above all the step."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class BadCheckpoint(Exception):
    """A checkpoint that is incomplete or damaged; the text names the file."""


def save_checkpoint(checkpoints: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write it durably under a temporary name, rename it, and remove all but the newest `keep` and
    the newest that an audit has shown to be sound.

    Raises RunFailed if it can't be written; earlier checkpoints are then unchanged.
    """
    folder = checkpoints / f"step-{checkpoint.state['step']:08d}"
    temporary = _temporary(folder)
    with failures_named(folder, _CHECKPOINTS_STAND):
        checkpoints.mkdir(exist_ok=True)
        write_folder(temporary, _files(checkpoint))
        os.rename(temporary, folder)
        sync_folder(checkpoints)
    saved = complete_checkpoints(checkpoints)
    trusted = [step for step, _ in saved if step <= checkpoint.state.get("trusted_step", 0)]
    for step, old in saved[:-keep]:
        if step not in trusted[-1:]:
            _remove(old)


def load_newest(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, or None if there are no checkpoints; and a list of what is wrong
    with newer ones, each of which is set aside under a name ending in ``.bad``.

    Raises RequestError if there are checkpoints but none is usable.
    """
    for leftover in checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    wrong: dict[Path, str] = {}
    for _, folder in reversed(complete_checkpoints(checkpoints)):
        try:
            checkpoint = _read(folder)
        except BadCheckpoint as error:
            wrong[folder] = str(error)
            continue
        with failures_named(checkpoints):
            for bad in wrong:
                _set_aside(bad, "bad")
        return checkpoint, list(wrong.values())
    if wrong:
        raise RequestError(
            f"{checkpoints}: no usable checkpoint: {'; '.join(wrong.values())};"
            " restore one from a backup, or begin again under another run.name"
        )
    return None, []


def set_aside_after(checkpoints: Path, step: int) -> Path | None:
    """Rename the checkpoints of later steps to a name ending in ``.suspect``; nothing is deleted.

    Gives the newest of the others, or None. Raises RunFailed if one can't be renamed.
    """
    trusted = None
    with failures_named(checkpoints):
        for saved_step, folder in complete_checkpoints(checkpoints):
            if saved_step <= step:
                trusted = folder
            else:
                _set_aside(folder, "suspect")
    return trusted


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    files = {
        _MODEL: safetensors.torch.save(checkpoint.model),
        _OPTIMIZER: safetensors.torch.save(checkpoint.optimizer),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    state = {**checkpoint.state, "sha256": digests}
    digests[_STATE] = _digest_of_state(state)
    files[_STATE] = json.dumps(state, indent=1).encode()
    return files


def _read(folder: Path) -> Checkpoint:
    try:
        state = json.loads((folder / _STATE).read_bytes())
        digests = state["sha256"]
        if digests[_STATE] != _digest_of_state(state):
            raise BadCheckpoint(f"{folder / _STATE} was altered")
        tensors = {}
        for name in (_MODEL, _OPTIMIZER):
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise BadCheckpoint(f"{folder / name} does not match its SHA-256")
            tensors[name] = safetensors.torch.load(content)
    except OSError as error:
        raise BadCheckpoint(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder / _STATE} is damaged ({type(error).__name__})") from None
    return Checkpoint(tensors[_MODEL], tensors[_OPTIMIZER], state)


def _digest_of_state(state: dict[str, Any]) -> str:
    """SHA-256 (hex) of the state and the files' digests, except its own."""
    digests = {name: digest for name, digest in state["sha256"].items() if name != _STATE}
    canonical = json.dumps({**state, "sha256": digests}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _temporary(folder: Path) -> Path:
    # A new name each time: what is left under an old one can't always be removed.
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")


def _remove(folder: Path) -> None:
    """Remove a checkpoint. On a network file system that can fail while someone has a file of it
    open, and is no reason to stop."""
    temporary = _temporary(folder)
    try:
        # Rename first, so that a kill here leaves nothing that looks whole but isn't.
        os.rename(folder, temporary)
        shutil.rmtree(temporary)
    except OSError as error:
        if folder not in _kept:
            print(f"warning: can't remove {folder}: {error.strerror}", file=sys.stderr, flush=True)
        _kept.add(folder)


_kept: set[Path] = set()
"""Checkpoints that could not be removed: said once."""


def _set_aside(folder: Path, why: str) -> None:
    aside = folder.with_name(f"{folder.name}.{why}")
    if aside.exists():
        os.rename(aside, _temporary(folder))
    os.rename(folder, aside)
