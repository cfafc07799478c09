"""A real SLURM cluster on this machine, and the batch jobs submitted to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.outcome import has_line
from tests.processes import PATIENCE, ROOT, SMALL, is_pending, wait_until

LOCAL_SLURM = ROOT / "scripts" / "local-slurm"

RUN = (*SMALL, "train.max_steps=120")
"""Three epochs: a second or two once it is going. Where something is to happen in the middle, the
processes are held."""


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
"""States that a job does not leave."""


class Cluster:
    """What scripts/local-slurm starts, and what users do with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def up(self, *settings: str, nodes: int = 2) -> subprocess.CompletedProcess[str]:
        """Start it, or what is down of it, with these lines of slurm.conf."""
        # A job's port follows from its number: no two clusters on this machine may share numbers.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        lines = [f"--set={setting}" for setting in (f"FirstJobId={1 + 500 * worker}", *settings)]
        return self._local_slurm("up", f"--nodes={nodes}", *lines)

    def down(self) -> None:
        self._local_slurm("down").check_returncode()

    def run(self, *command: str) -> str:
        """What a command of SLURM's prints; fails if the command does."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, text=True, capture_output=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(
        self,
        logs: Path,
        *flags: str,
        script: str = "slurm/train.sh",
        arguments: tuple[str, ...] = (),
    ) -> BatchJob:
        """sbatch, by a user in the repository; its log goes into the folder `logs`."""
        log = logs / "job-%j.log"
        submission = ("sbatch", "--parsable", "--cpus-per-task=1", f"--output={log}", *flags)
        number = self.run(*submission, script, *arguments).strip()
        return BatchJob(self, number, Path(str(log).replace("%j", number)))

    def lose(self, node: str) -> None:
        """Kill all that runs on a node, as when its power goes: slurmd first, then its steps."""
        self._kill(lambda arguments, _: arguments[-2:] == ["-N", node])
        steps = {
            _parent(pid)
            for pid, _, variables in _processes()
            if variables.get("SLURMD_NODENAME") == node and self._is_ours(variables)
        }
        for pid in steps:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._kill(lambda _, variables: variables.get("SLURMD_NODENAME") == node)

    def _kill(self, which: Callable[[list[str], dict[str, str]], bool]) -> None:
        for pid, arguments, variables in _processes():
            if which(arguments, variables) and self._is_ours(variables):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _is_ours(self, variables: dict[str, str]) -> bool:
        return variables.get("SLURM_CONF") == self.environment["SLURM_CONF"]

    def _local_slurm(self, *request: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LOCAL_SLURM, *request, "--dir", self.folder],
            text=True, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip


class BatchJob:
    """A job that was submitted, or one task of an array: number ``12`` or ``12_3``."""

    def __init__(self, cluster: Cluster, number: str, log: Path) -> None:
        self.cluster = cluster
        self.number = number
        self.log = log

    def fields(self) -> dict[str, str]:
        """What scontrol says of it."""
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", self.number)
        return dict(field.partition("=")[::2] for field in shown.split())

    @property
    def state(self) -> str:
        return self.fields()["JobState"]

    @property
    def restarts(self) -> int:
        return int(self.fields()["Restarts"])

    @property
    def seconds(self) -> int:
        """Since its last start; less than a day."""
        hours, minutes, seconds = map(int, self.fields()["RunTime"].split(":"))
        return hours * 3600 + minutes * 60 + seconds

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text() if self.log.exists() else ""

    def until(self, condition: Callable[[], bool], every: float = 0.2) -> None:
        """Wait until something is so. To ask SLURM `every` so many seconds costs a core little."""
        wait_until(condition, lambda: f"{self.fields()}\n{self.text()}", every=every)

    def until_step(self, directory: Path, step: int) -> None:
        """Wait until the run's metrics.jsonl has a line of this step or a later one."""
        self.until(lambda: has_line(directory, step), every=0.02)

    def expect(self, state: str, code: str = "0:0") -> BatchJob:
        """Wait for the job's end, which must be this."""
        self.until(lambda: self.state in ENDED)
        fields = self.fields()
        assert (fields["JobState"], fields["ExitCode"]) == (state, code), f"{fields}\n{self.text()}"
        return self

    def finish(self) -> None:
        """Let it be requeued as often as it wants, and see it end well."""
        self.until(lambda: self.is_started_again() and self.state in ENDED)
        self.expect("COMPLETED")

    def limit(self, minutes: int) -> None:
        """Set its time limit, in minutes since its start, as an administrator may."""
        self.cluster.run("scontrol", "update", f"JobId={self.number}", f"TimeLimit={minutes}")

    def is_started_again(self) -> bool:
        """Whether it is not in the queue; if it is, it is spared the two minutes that SLURM holds
        a requeued job there."""
        fields = self.fields()
        if fields["JobState"] == "PENDING" and fields["Reason"] == "BeginTime":
            time.sleep(2)  # In the second of its end SLURM takes it for the start that has ended.
            self.cluster.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")
        return fields["JobState"] in ("RUNNING", *ENDED)

    def ranks(self) -> dict[int, int]:
        """Process ids of the training processes by rank."""
        job, _, task = self.number.partition("_")
        name = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": task}
        asked = name if task else {"SLURM_JOB_ID": job}
        return {
            int(variables.get("RANK", variables["SLURM_PROCID"])): pid
            for pid, arguments, variables in _processes()
            if "lenet_dist.train" in arguments and "SLURM_STEP_ID" in variables
            and "torch.distributed.run" not in arguments
            and asked.items() <= variables.items()
        }  # fmt: skip

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """Keep its processes from running, as a node that is stuck does, so that what is to happen
        meanwhile does not depend on this machine's speed."""
        pids = list(self.ranks().values())
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield pids
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def has_got(pid: int, number: signal.Signals) -> bool:
    """Whether a process that is held has a signal waiting, or was let go by it and has ended.
    SLURM sends SIGCONT with some signals."""
    return not Path(f"/proc/{pid}").exists() or is_pending(pid, number)


def _processes() -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """Every process: its id, its command's words, its variables."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            text = (folder / "environ").read_bytes().decode(errors="replace")
            variables = dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
            yield int(folder.name), arguments[:-1], variables


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Batch:
    """Submits jobs of RUN in one test's folder, and cancels what is left of them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.root = folder
        self.run = folder / "run"
        self._jobs: list[BatchJob] = []

    def submit(self, *flags: str, overrides: tuple[str, ...] = (), **how: str) -> BatchJob:
        arguments = (*RUN, f"run.root={self.root}", "run.name=run", *overrides)
        self._jobs.append(self.cluster.submit(self.root, *flags, arguments=arguments, **how))
        return self._jobs[-1]

    def cancel(self) -> None:
        for job in self._jobs:
            self.cluster.run("scancel", "--quiet", job.number)
            job.until(lambda job=job: not job.ranks())


def assert_one_readable_log(job: BatchJob) -> None:
    """Every start in order, once each, with what it did; the result at the end; plain text."""
    text = job.text()
    starts = [int(part.split(",")[0]) for part in text.split(", start ")[1:]]
    assert starts == list(range(1, job.restarts + 2))
    assert text.count("global batch 64 = ") <= len(starts)
    assert text.count("test accuracy") == 2, "the evaluation's line, and the result's"
    assert text.rstrip().splitlines()[-1].split()[0] == "run"
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "Traceback" not in text
