"""What an elastic launcher starts again and again ends when that is in vain, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenet_dist.distributed.accelerator import peer_watch
from lenet_dist.exits import LostProcess, NodeError
from tests.commands import command
from tests.outcome import outcome, world_sizes
from tests.processes import Job, Jobs

pytestmark = pytest.mark.processes

ELASTIC = {"TORCHELASTIC_MAX_RESTARTS": "1000", "TORCHELASTIC_RUN_ID": "test"}


def test_a_job_that_fails_again_and_again_ends_with_its_true_error(jobs: Jobs) -> None:
    how = {"environment": ELASTIC, "world_size": 2}
    error = "RuntimeError: gloo and behold: this loss was never written"
    for _ in range(3):
        job = jobs.start(module="tests.altered:failing", **how)
        assert job.wait() == [1, 1]
        assert error in job.text(), "a failure, and no lost process"
    ended = jobs.start(module="tests.altered:failing", **how).expect(1)
    said = "failed: 3 starts in a row began at step 0 and took the run no further"
    assert f"{said}: {error}" in ended.text()
    assert world_sizes(ended.directory) == [2] * 3


def test_losses_between_which_there_is_progress_end_nothing(jobs: Jobs, uninterrupted: Job) -> None:
    for step in (7, 14, 28, 42):
        jobs.start(environment=ELASTIC).kill_at(step)
    assert outcome(jobs.run(environment=ELASTIC).directory) == outcome(uninterrupted.directory)


def test_a_wrapper_script_is_not_taken_for_the_launcher(tmp_path: Path) -> None:
    wrong = f"python -m lenet_dist.train train.shards=7 run.root={tmp_path}"
    alone = command("bash", "-c", f"{wrong}; echo $?", environment=ELASTIC)
    assert (alone.returncode, alone.stdout) == (0, "2\n")
    torchrun = ("torchrun", "--standalone", "--max-restarts=3", "--no-python")
    launched = command(*torchrun, "bash", "-c", f"{wrong}; exit $?")
    assert launched.returncode != 0
    # Once by the job, and once by torchrun, at the end of its report.
    assert launched.stderr.count("error: train.batch_size=") <= 2


def test_torchruns_report_ends_with_what_the_job_said(tmp_path: Path) -> None:
    asked = ("-m", "lenet_dist.train", "train.shards=7", f"run.root={tmp_path}")
    done = command("torchrun", "--standalone", *asked)
    *_, last, _ = done.stderr.splitlines()
    assert last.startswith("  traceback : error: train.batch_size=256 can't be cut into")


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:1", LostProcess),
        ("[gloo/transport/tcp/unbound_buffer.cc:129] Timed out waiting 2000ms", LostProcess),
        ("[enforce fail at gloo/transport/tcp/device.cc:84] Unable to find interface", NodeError),
        ("ProcessGroupGloo::allgather: invalid tensor type at index 0", RuntimeError),
        ("my_gloo_layer: shapes differ", RuntimeError),
    ],
)
def test_not_every_word_of_gloo_is_a_lost_process(text: str, becomes: type[Exception]) -> None:
    with (
        pytest.raises(RuntimeError if becomes is not NodeError else NodeError) as raised,
        peer_watch(5),
    ):
        raise RuntimeError(text)
    assert type(raised.value) is becomes


def test_who_starts_the_job_anew_after_that_may(jobs: Jobs, uninterrupted: Job) -> None:
    for _ in range(3):
        assert jobs.start(environment=ELASTIC, module="tests.altered:failing").wait() == [1]
    assert outcome(jobs.run().directory) == outcome(uninterrupted.directory)


def test_a_network_interface_that_is_not_there_is_named(jobs: Jobs) -> None:
    job = jobs.start(world_size=2, environment={"GLOO_SOCKET_IFNAME": "nowhere0"}).expect(2)
    assert "nowhere0" in job.text()
