"""Check the machines before a run: is every process there, set up alike and equally fast?

    srun -N2 python -m lenet_dist.preflight [--config FILE] [--json FILE] [key=value ...]
    accelerate launch -m lenet_dist.preflight
    torchrun --nproc-per-node N -m lenet_dist.preflight

Start it the way the run will be started, with the run's own config. Exit code 0: all is well; 1:
something differs, fails or is slow, and the message names the rank; 2: the request is wrong.
docs/preflight.md explains each figure.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import check_file_can_be_written
from lenet_dist.request import config_parser, load

_SLOW = 3.0


def main(arguments: list[str]) -> None:
    """Check as asked. Heavy imports come late, so that --help is quick."""
    started = time.monotonic()
    parser = config_parser("lenet_dist.preflight", "[--json FILE] [--slow FACTOR]", __doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything to FILE")
    parser.add_argument(
        "--slow", metavar="FACTOR", type=float, default=_SLOW,
        help="how many times slower than the others' median is slow (default %(default)g)",
    )  # fmt: skip
    request, overrides = parser.parse_known_args(arguments)
    if not (math.isfinite(request.slow) and request.slow > 1):
        raise RequestError(f"--slow {request.slow:g}: must be a number above 1")
    config = load(request.config, overrides)
    from lenet_dist.distributed import ranks
    from lenet_dist.distributed.accelerator import on_main, peer_watch, say, start_accelerator
    from lenet_dist.preflight.collect import Collector
    from lenet_dist.preflight.findings import findings
    from lenet_dist.preflight.printout import Report
    from lenet_dist.track.environment import active_trackers

    active_trackers(config)
    ranks.adopt_ranks()
    accelerator = start_accelerator(config.compute)
    with peer_watch(config.compute.timeout_seconds):
        on_main(accelerator, lambda: check_file_can_be_written("--json", request.json))
        collector = Collector(config, accelerator)
        reports, all_reduces = collector.ranks(), collector.all_reduces()
        wrong = findings(reports, request.slow)
        report = Report(reports, all_reduces, wrong, request.slow, time.monotonic() - started)
        say(accelerator, report)
        on_main(accelerator, lambda: report.write(request.json))
    if wrong:
        raise RunFailed("\n        ".join(finding.text for finding in wrong))
    accelerator.end_training()
