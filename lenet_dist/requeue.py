"""Requeue the SLURM job that this runs in, if its run made progress since its last start.

    python -m lenet_dist.requeue [--most N] [the arguments of lenet_dist.train]

slurm/job.sh calls it in the batch script, after the processes were stopped with a checkpoint.
"""

from __future__ import annotations

import os

from lenet_dist import exits
from lenet_dist.distributed import slurm
from lenet_dist.exits import RequestError, Stopped
from lenet_dist.request import config_parser, load
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.track.sweep import named_after_trial


def main(arguments: list[str]) -> None:
    """Requeue the job, or raise Stopped with the reason not to."""
    parser = config_parser("lenet_dist.requeue", "[--most N]", __doc__)
    parser.add_argument(
        "--most", type=int, default=50, metavar="N", help="requeues allowed (default 50)"
    )
    request, overrides = parser.parse_known_args(arguments)
    directory = RunDirectory.of(named_after_trial(load(request.config, overrides)))
    job = slurm.job_name()
    if job is None:
        raise RequestError("not in a SLURM job: there is nothing to requeue")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    try:
        reason = _reason_not_to(directory, job, restarts, request.most)
        if reason is None:
            first, last = directory.gain()
            # Print first: SLURM ends this very process.
            print(
                f"requeueing job {job} ({restarts + 1} of at most {request.most} times):"
                f" this start took the run from step {first:,} to step {last:,}",
                flush=True,
            )
            slurm.requeue(job)
    except RequestError as error:
        reason = str(error)
    if reason is not None:
        raise Stopped(
            f"not requeued: {reason}; everything is saved in {directory.path}:"
            " submit the same command again to continue"
        )


def _reason_not_to(directory: RunDirectory, job: str, restarts: int, most: int) -> str | None:
    state = slurm.job_state(job)
    if state != "RUNNING":
        return f"job {job} is {state}: SLURM decides what follows"
    if restarts >= most:
        return f"job {job} has been requeued {restarts} times, of at most {most} (MAX_REQUEUES)"
    first, last = directory.gain()
    if last <= first:
        return f"no progress since the last start, at step {first}"
    return None


if __name__ == "__main__":
    exits.run(main)
