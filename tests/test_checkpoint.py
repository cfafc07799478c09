"""A checkpoint is whole and verified, or the one before it is used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lenet_dist import files
from lenet_dist.exits import RequestError
from lenet_dist.run_dir import checkpoint
from lenet_dist.run_dir.checkpoint import Checkpoint
from lenet_dist.run_dir.directory import complete_checkpoints
from tests.disk import bound
from tests.properties import PROPERTY

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def checkpoint_of(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        model={"b": torch.randn(3, 4, generator=generator), "a": torch.full((), float(step))},
        optimizer={"a.exp_avg": torch.randn(5, generator=generator), "a.step": torch.tensor(step)},
        state={
            "step": step,
            "seconds": {"train": 0.1 + step},
            "threads": 1,
            "wandb_id": None,
            "device": "Gerät",
            "bit_exact": True,
            "window": {"loss_sum": 1 / 3},
        },
    )


def save_all(folder: Path, *steps: int, keep: int = 100) -> Path:
    """Save checkpoints of these steps; gives the folder of checkpoints."""
    for step in steps:
        checkpoint.save_checkpoint(folder / "checkpoints", checkpoint_of(step), keep)
    return folder / "checkpoints"


def test_the_newest_that_an_audit_has_shown_to_be_sound_is_kept(tmp_path: Path) -> None:
    for step, trusted in ((10, 0), (20, 20), (30, 20), (40, 20), (50, 45), (60, 45), (70, 45)):
        saved = checkpoint_of(step)
        saved.state["trusted_step"] = trusted
        checkpoint.save_checkpoint(tmp_path / "checkpoints", saved, keep=1)
    assert [step for step, _ in complete_checkpoints(tmp_path / "checkpoints")] == [40, 70]


def assert_is(loaded: Checkpoint | None, step: int) -> None:
    """It is the checkpoint of that step, bit for bit."""
    expected = checkpoint_of(step)
    assert loaded is not None
    for ours, theirs in ((expected.model, loaded.model), (expected.optimizer, loaded.optimizer)):
        assert {name: bits(t) for name, t in theirs.items()} == {
            name: bits(t) for name, t in ours.items()
        }
    assert {name: loaded.state[name] for name in expected.state} == expected.state


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.numpy().tobytes()


def content(folder: Path) -> dict[str, bytes | None]:
    """All that lies under a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_only_the_newest_stay(tmp_path: Path, keep: int) -> None:
    checkpoints = save_all(tmp_path, 1, 2, 30, 400, keep=keep)
    names = [f"step-{step:08d}" for step in (1, 2, 30, 400)]
    assert sorted(path.name for path in checkpoints.iterdir()) == names[-keep:]
    assert_is(checkpoint.load_newest(checkpoints)[0], 400)


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "zeros": lambda whole: bytes(len(whole)),
    "one bit flipped": lambda whole: flipped(whole, 8 * (len(whole) // 2)),
    "longer": lambda whole: whole + b"x",
    "missing": lambda _: None,
}


def flipped(whole: bytes, bit: int) -> bytes:
    byte = bytes([whole[bit // 8] ^ (1 << bit % 8)])
    return whole[: bit // 8] + byte + whole[bit // 8 + 1 :]


def damage(file: Path, how: str) -> None:
    damaged = DAMAGES[how](file.read_bytes())
    if damaged is None:
        file.unlink()
    else:
        file.write_bytes(damaged)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_gives_way_to_the_one_before_and_is_set_aside(
    tmp_path: Path, name: str, how: str
) -> None:
    checkpoints = save_all(tmp_path, 1, 2, 3)
    bad = checkpoints / "step-00000003"
    damage(bad / name, how)
    damaged = content(bad)
    loaded, warnings = checkpoint.load_newest(checkpoints)
    assert_is(loaded, 2)
    assert len(warnings) == 1 and str(bad / name) in warnings[0]
    assert not bad.exists()
    assert content(checkpoints / "step-00000003.bad") == damaged
    # The run goes on from there, and comes by that step again.
    assert_is(checkpoint.load_newest(save_all(tmp_path, 3))[0], 3)


@PROPERTY
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(name: str, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = save_all(Path(folder), 1, 2)
        file = checkpoints / "step-00000002" / name
        whole = file.read_bytes()
        file.write_bytes(flipped(whole, 8 * int(place * len(whole)) + bit))
        loaded, warnings = checkpoint.load_newest(checkpoints)
        if not warnings:  # White space for other white space, in JSON.
            assert name == "state.json"
            assert_is(loaded, 2)
        else:
            assert str(file) in warnings[0]
            assert_is(loaded, 1)


def test_files_of_another_step_do_not_pass_for_its_own(tmp_path: Path) -> None:
    checkpoints = save_all(tmp_path, 1, 2)
    shutil.copy(checkpoints / "step-00000001" / FILES[0], checkpoints / "step-00000002" / FILES[0])
    assert_is(checkpoint.load_newest(checkpoints)[0], 1)


def test_if_none_is_good_all_are_named_and_nothing_is_touched(tmp_path: Path) -> None:
    checkpoints = save_all(tmp_path, 1, 2, 3)
    bad = [checkpoints / f"step-{i:08d}" / name for i, name in enumerate(FILES, start=1)]
    for file, how in zip(bad, ("truncated", "missing", "one bit flipped"), strict=True):
        damage(file, how)
    before = content(checkpoints)
    with pytest.raises(RequestError) as refusal:
        checkpoint.load_newest(checkpoints)
    assert all(str(file) in str(refusal.value) for file in bad)
    assert "\n" not in str(refusal.value)
    assert content(checkpoints) == before


def test_a_checkpoint_is_safetensors_and_json_and_no_pickle(tmp_path: Path) -> None:
    folder = save_all(tmp_path, 5) / "step-00000005"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    # A pickle begins with its protocol, torch.save's zip with PK.
    assert not any(path.read_bytes().startswith((b"\x80", b"PK")) for path in folder.iterdir())
    assert safetensors.torch.load_file(folder / FILES[0]).keys() == {"a", "b"}
    assert safetensors.torch.load_file(folder / FILES[1]).keys() == {"a.exp_avg", "a.step"}
    state = json.loads((folder / "state.json").read_text())
    assert state["step"] == 5
    assert set(state["sha256"]) >= set(FILES[:2])


TRACED = {checkpoint.__file__, files.__file__, shutil.__file__}


def save_killed_at(line: int, checkpoints: Path, step: int, keep: int) -> bool:
    """Save in a child that kills itself before it runs that line; whether it came to it."""
    lines_run = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines_run
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            lines_run += 1
            if lines_run == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    to_save = checkpoint_of(step)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.settrace(trace)
            checkpoint.save_checkpoint(checkpoints, to_save, keep)
            code = 0
        finally:
            sys.settrace(None)
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"saving ended with status {status}"
    return status == signal.SIGKILL


def test_killed_at_any_line_a_save_leaves_the_newest_or_the_last_whole(tmp_path: Path) -> None:
    began_with = save_all(tmp_path, 1, 2)
    found = []
    for line in range(1, 1000):
        checkpoints = tmp_path / str(line)
        shutil.copytree(began_with, checkpoints)
        killed = save_killed_at(line, checkpoints, step=3, keep=2)
        left = {int(folder.name[5:]): content(folder) for folder in checkpoints.glob("step-*")}
        assert all(held.keys() == set(FILES) for held in left.values()), "a name that lies"
        loaded, warnings = checkpoint.load_newest(checkpoints)
        assert loaded is not None
        step = loaded.state["step"]
        assert_is(loaded, step)
        assert warnings == []
        assert {step, step - 1} <= left.keys(), "one was removed too early"
        checkpoint.save_checkpoint(checkpoints, checkpoint_of(step + 1), keep=2)
        assert_is(checkpoint.load_newest(checkpoints)[0], step + 1)
        kept = sorted(path.name for path in checkpoints.iterdir())
        assert kept == [f"step-{step:08d}", f"step-{step + 1:08d}"]
        shutil.rmtree(checkpoints)
        if not killed:
            break
        found.append(step)
    else:
        pytest.fail("it was killed at every line")
    assert step == 3, "not killed, it is saved"
    assert len(found) > 20
    assert set(found) == {2, 3} and found == sorted(found)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_can_not_be_synced_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    files.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    files.replace_folder(tmp_path / "folder", {"file": b"content"})
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"
    assert_is(checkpoint.load_newest(save_all(tmp_path, 1, 2))[0], 2)


@pytest.mark.parametrize("busy", ["model.safetensors", ""])
def test_an_old_checkpoint_that_can_not_be_removed_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], busy: str
) -> None:
    # A file that something is mounted on is busy, like one that NFS keeps for who has it open.
    checkpoints = save_all(tmp_path, 1)
    with bound(checkpoints / "step-00000001" / busy):
        save_all(tmp_path, 2, 3, 4, keep=1)
        told = capsys.readouterr().err
        warning = f"warning: can't remove {checkpoints / 'step-00000001'}: Device or resource busy"
        assert told.splitlines() == [warning]  # Once.
        for _ in range(2):
            assert_is(checkpoint.load_newest(checkpoints)[0], 4)
    checkpoint.load_newest(checkpoints)
    left = {path.name for path in checkpoints.iterdir()}
    assert left == {"step-00000004"} | (set() if busy else {"step-00000001"})
