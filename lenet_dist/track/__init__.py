"""Bring a run's trackers up to date with what the run has left in its directory.

    python -m lenet_dist.track RUN [--new-id] [key=value ...]

Training starts this in a process of its own. Run by hand, it uploads what the server does not have
yet; overrides such as wandb.mode=online apply to this call only. --new-id goes on as another run on
W&B, where the old one was deleted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lenet_dist import exits
from lenet_dist.exits import RequestError
from lenet_dist.request import load
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.track import feed
from lenet_dist.track.environment import active_trackers, settle_environment


def main(arguments: list[str]) -> None:
    """Track as asked, or follow the training job that started this."""
    parser = exits.ArgumentParser(
        prog="lenet_dist.track",
        usage="%(prog)s [-h] [--new-id] RUN [key=value ...]",
        description=__doc__,
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    new_id = "give the run a new id on W&B, and upload all of it"
    parser.add_argument("--new-id", action="store_true", help=new_id)
    parser.add_argument("--follow", metavar="PID", type=int, help=argparse.SUPPRESS)
    request, overrides = parser.parse_known_args(arguments)
    run: Path = request.run
    directory = RunDirectory(run)
    directory.check_is_run()
    config = load(directory.config, overrides)
    names = active_trackers(config)
    if not names:
        raise RequestError(f"{run}: no tracker is active; write for example wandb.mode=online")
    settle_environment(run)
    if request.new_id:
        directory.renew_wandb_id()
    if request.follow is None:
        feed.catch_up(run, config, names)
    else:
        feed.follow(run, config, names, request.follow)
