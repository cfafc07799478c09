"""Write files so that a kill, a full disk or a power cut leaves nothing half-done."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lenet_dist.exits import RequestError, RunFailed

_CAN_NOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What CIFS and many FUSE file systems answer to the fsync of a folder."""

_LEAST_FREE = 1 << 20
"""Bytes of a disk: with less, a program may lose what it writes, and not say so."""


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` into the file at `path`, all of it and durably, or leave the file unchanged.

    Of two that write it at once, one wins. Raises RunFailed naming the file and the reason.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with failures_named(path):
        try:
            write_durably(temporary, content)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, path)
        sync_folder(path.parent)


def replace_folder(path: Path, content: Mapping[str, bytes]) -> None:
    """Make the folder at `path` hold exactly these files, durably, or leave it unchanged.

    A kill between the two renames leaves the old folder beside it, as `.NAME.*.old`. Raises
    RunFailed naming the folder and the reason.
    """
    token = secrets.token_hex(4)
    temporary, previous = (
        path.with_name(f".{path.name}.{token}.{kind}") for kind in ("tmp", "old")
    )
    with failures_named(path):
        write_folder(temporary, content)
        if path.exists():
            os.rename(path, previous)
        os.rename(temporary, path)
        sync_folder(path.parent)
        shutil.rmtree(previous, ignore_errors=True)


def write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write a new folder of these files, durably; if it fails, none."""
    try:
        folder.mkdir()
        for name, file_content in content.items():
            write_durably(folder / name, file_content)
        sync_folder(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_file_can_be_written(option: str, path: Path | None) -> None:
    """Raises RequestError, naming the option, if no file can be written at `path`.

    `path`: None if the option was not given.
    """
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"{option} {path}: is a folder; name the file")
    _check_parent(option, path)


def check_folder_can_be_written(option: str, path: Path) -> None:
    """Raises RequestError, naming the option, if no folder can be written at `path`."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"{option} {path}: is a file; name the folder")
    if path.is_symlink():
        raise RequestError(f"{option} {path}: is a link; name the folder itself")
    if path.resolve() == Path.cwd():
        raise RequestError(f"{option} {path}: is the current directory; name a folder in it")
    _check_parent(option, path)


def _check_parent(option: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise RequestError(f"{option} {path}: {path.parent} is not a folder")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"{option} {path}: can't write into {path.parent}; name another place")


def share_as_folder(folder: Path) -> None:
    """Let those, and only those, who may read or write a folder do so with all that is in it.

    Another program has filled it, and did not ask the umask, as the folder did.
    """
    if not folder.exists():
        return
    rights = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        with suppress(OSError):  # Removed meanwhile, or another user's.
            mode = path.lstat().st_mode
            wanted = mode & ~0o777 | (rights if stat.S_ISDIR(mode) else rights & 0o666)
            if mode != wanted and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(wanted))


def is_disk_full(folder: Path) -> bool:
    """Whether the disk of a folder, which may not exist yet, has hardly any room."""
    return folder.exists() and shutil.disk_usage(folder).free < _LEAST_FREE


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, so that reading it may never end."""
    return path.exists() and not (path.is_file() or path.is_dir())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Wait until the disk has what was written, on a file system that can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CAN_NOT_SYNC:
            raise


@contextmanager
def failures_named(path: Path, advice: str = "") -> Iterator[None]:
    """Turn OSError into RunFailed, naming the file, the reason and what to do."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"can't write {path}: {error.strerror or error}{advice}") from None
