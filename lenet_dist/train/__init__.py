"""Train LeNet-5.

    accelerate launch -m lenet_dist.train [--config FILE] [key=value ...]
    python -m lenet_dist.train            one process
    torchrun --nproc-per-node N -m lenet_dist.train
    srun python -m lenet_dist.train       one process per task

Run the same command again to continue after a stop.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from lenet_dist import streams, system
from lenet_dist.config import to_yaml
from lenet_dist.distributed import ranks
from lenet_dist.distributed.stop import StopRequest
from lenet_dist.launchers import is_main_process
from lenet_dist.request import config_parser, load
from lenet_dist.run_dir.directory import RunDirectory
from lenet_dist.track.sweep import named_after_trial
from lenet_dist.train.clock import Clock

if TYPE_CHECKING:
    from lenet_dist.train.task import Task


def main(arguments: list[str], task: Task | None = None) -> None:
    """Train LeNet-5, or another task, as asked. Heavy imports come late, so that --help is quick
    and signals are caught early."""
    started = time.monotonic()
    parser = config_parser("lenet_dist.train", "[--print-config]", __doc__)
    parser.add_argument("--print-config", action="store_true", help="print the config and exit")
    request, overrides = parser.parse_known_args(arguments)
    config = named_after_trial(load(request.config, overrides))
    if request.print_config:
        if is_main_process():
            print(to_yaml(config), end="")
        return
    streams.go_on_without_output()
    with StopRequest() as stop:
        system.keep_freed_memory()
        from lenet_dist.run_dir.result import table
        from lenet_dist.train import process_state
        from lenet_dist.train.start import start_run

        with process_state.put_back():
            ranks.adopt_ranks()
            result = start_run(config, task, stop, Clock(started), _report)
            if is_main_process():
                print(table(result, RunDirectory.of(config)))


def _report(run: RunDirectory) -> None:
    """Write the run's page. The result is on disk: the run is complete whatever happens here."""
    try:
        from lenet_dist.report import page
        from lenet_dist.run_dir import reader

        page.write([reader.read(run.path)], run.report)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        again = f"python -m lenet_dist.report {run.path}"
        print(f"warning: no report: {reason}; once that is fixed: {again}", file=sys.stderr)
