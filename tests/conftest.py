"""What every test stands on: a clean environment, and jobs that end with it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lenet_dist.config import Data
from lenet_dist.data import fetch
from lenet_dist.exits import RequestError
from tests.cluster import RUN, Batch, Cluster
from tests.commands import LaunchedJobs
from tests.outcome import outcome
from tests.processes import BY_TORCH, Job, Jobs
from tests.wandb_server import WandbServer

if TYPE_CHECKING:  # To import torch takes two seconds, and many tests leave that to their jobs.
    from lenet_dist.model.lenet5 import LeNet5

_CHOICE = re.compile(r"(not )?\w+( (and|or) (not )?\w+)*")


def pytest_configure() -> None:
    """Tests that a shell or nohup runs in the background would hand ignored signals on to jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file of which a choice of markers leaves nothing is not imported, which takes seconds.

    `-m "not x"` leaves nothing of a file whose `pytestmark` has x, and `-m x` nothing of one
    without x.
    """
    choice = config.option.markexpr
    if not collection_path.match("test_*.py") or not _CHOICE.fullmatch(choice):
        return None
    text = collection_path.read_text(encoding="utf-8")
    of_all = "".join(re.findall(r"^pytestmark = .*", text, re.MULTILINE))

    def leaves_nothing(term: str) -> bool:
        marker = f"mark.{term.removeprefix('not ')}"
        return marker in of_all if term.startswith("not ") else marker not in text

    alternatives = (part.split(" and ") for part in choice.split(" or "))
    return all(any(map(leaves_nothing, terms)) for terms in alternatives) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of a GPU where there is none: that is no hole in the gate. Let several
    workers begin with the files that take longest, or all would wait for one of these in the end.
    """
    without = [item for item in items if item.get_closest_marker("gpu")]
    if without and not _has_gpu():
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]
    if hasattr(config, "workerinput"):  # Of xdist's workers.
        items.sort(key=_seconds_of_file, reverse=True)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _seconds_of_file(item: pytest.Item) -> float:
    """About how long the test's file takes, as its `quiet` or `timed` says; 0 if it has neither."""
    marker = item.get_closest_marker("quiet") or item.get_closest_marker("timed")
    return marker.kwargs["seconds"] if marker else 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything a test may need has been installed, a skip is a hole in the gate."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped") if reporter else None
    if skipped and os.environ.get("LENET_DIST_NO_SKIPS"):
        reporter.write_line(f"\nLENET_DIST_NO_SKIPS: {len(skipped)} skipped: failed")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def mnist(request: pytest.FixtureRequest) -> Path:
    """The repository's data root with the real MNIST in it, fetched if need be."""
    root = request.config.rootpath / "data"
    try:
        fetch.ensure(Data(root=str(root)))
    except RequestError as error:
        pytest.skip(f"needs MNIST: {error}")
    return root


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers and schedulers around the test run must not reach into it."""
    prefixes = ("ACCELERATE_", "SLURM_", "WANDB_", "TORCHELASTIC_", "OMP_", "OMPI_", "PMI_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in list(os.environ):
        if name.startswith(prefixes) or name in names:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are slow on several threads where others use the machine too."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Starts jobs whose runs lie under the test's folder."""
    with Jobs(tmp_path) as started:
        yield started


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[LaunchedJobs]:
    """Starts jobs by launchers; their runs lie under the test's folder."""
    with LaunchedJobs(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def shared_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Starts jobs whose runs many tests read, each under a name of its own."""
    with Jobs(tmp_path_factory.mktemp("runs")) as started:
        yield started


@pytest.fixture(scope="session")
def uninterrupted(shared_jobs: Jobs) -> Job:
    """The run that all others are compared with: SMALL on one process, from start to end."""
    return shared_jobs.run()


@pytest.fixture(scope="session")
def uninterrupted_by_torch(shared_jobs: Jobs) -> Job:
    """SMALL on one process BY_TORCH, from start to end."""
    return shared_jobs.run(*BY_TORCH, name="by-torch")


@pytest.fixture(scope="session")
def interrupted(shared_jobs: Jobs) -> Path:
    """A complete run that was interrupted once."""
    shared_jobs.start(name="interrupted").stop_at(28)
    return shared_jobs.run(name="interrupted").directory


@pytest.fixture(scope="session")
def unfinished(shared_jobs: Jobs) -> Path:
    """A run that was stopped after two thirds of its steps."""
    return shared_jobs.start(name="unfinished").stop_at(42).directory


@pytest.fixture(scope="session")
def several(shared_jobs: Jobs, unfinished: Path) -> list[Path]:
    """Two configs; three seeds of the first, one of them twice, and one run that has not ended."""
    short, of_128 = "train.max_steps=20", "train.batch_size=128"
    return [
        shared_jobs.run(short, name="first").directory,
        shared_jobs.run(short, name="second", world_size=2).directory,
        shared_jobs.run(short, "seed=1", name="third").directory,
        shared_jobs.run(short, "seed=2", name="fourth").directory,
        shared_jobs.run(short, of_128, name="of-128").directory,
        unfinished,
    ]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes; a lost node is declared down after some 30 s; SIGKILL comes 10 s after SIGTERM."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    up = started.up("SlurmdTimeout=10", "KillWait=10")
    if up.returncode == 2:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    yield started
    started.down()


@pytest.fixture
def batch(cluster: Cluster, tmp_path: Path) -> Iterator[Batch]:
    submitted = Batch(cluster, tmp_path)
    yield submitted
    submitted.cancel()


@pytest.fixture(scope="session")
def without_slurm(shared_jobs: Jobs) -> object:
    """What RUN ends with on two processes without SLURM, uninterrupted."""
    return outcome(shared_jobs.run(base=RUN, name="without-slurm", world_size=2).directory)


@pytest.fixture(scope="session")
def scaled_model() -> LeNet5:
    """A model with a mean and a std of its own."""
    from lenet_dist.model import lenet5

    return lenet5.build(3, 0.13, 0.31).eval()


@pytest.fixture(scope="session")
def scaled_file(scaled_model: LeNet5, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model's weights file."""
    from lenet_dist.model import weights

    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    model = scaled_model
    path.write_bytes(weights.to_bytes(dict(model.state_dict()), model.mean, model.std))
    return path


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as serving:
        yield serving


@pytest.fixture
def home_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's keys are used, and the logs of `wandb sync` don't lie about."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "commands"))
