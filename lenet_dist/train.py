"""Train LeNet-5.

    accelerate launch -m lenet_dist.train [--config FILE] [key=value ...]
    python -m lenet_dist.train            one process
    torchrun --nproc-per-node N -m lenet_dist.train
    srun python -m lenet_dist.train       one process a task

Run the same command again to continue after a stop.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path

from lenet_dist import config as configuration
from lenet_dist import exits
from lenet_dist.plan import validate
from lenet_dist.runtime.stop import StopRequest


def main(arguments: list[str]) -> None:
    """Train as asked. Imports of weight come late: --help is quick, signals are caught early."""
    started = time.monotonic()
    parser = exits.ArgumentParser(
        prog="lenet_dist.train",
        description=__doc__,
        epilog="keys, each set by key=value:\n" + configuration.describe_keys(),
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file, as those in configs/")
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved config and exit"
    )
    request, overrides = parser.parse_with_overrides(arguments)
    config = configuration.load(request.config, overrides)
    if request.print_config:
        if exits.is_main_process():
            print(configuration.to_yaml(config), end="")
        return
    stop = StopRequest()
    stop.install()
    from lenet_dist.runtime import memory, slurm

    memory.keep_freed()
    slurm.adopt_ranks()
    _train(config, stop, started)


def _train(config: configuration.Config, stop: StopRequest, started: float) -> None:
    from lenet_dist.runtime import accelerator as accelerators
    from lenet_dist.runtime.run_directory import RunDirectory
    from lenet_dist.tracking.environment import active_trackers
    from lenet_dist.tracking.follower import followed
    from lenet_dist.tracking.progress import result_table
    from lenet_dist.training.job import assemble
    from lenet_dist.training.loop import train

    plan = validate(config, accelerators.world_size_of_environment())
    trackers = active_trackers(config)
    directory = RunDirectory(config)
    accelerator = accelerators.start(config.compute)
    watch = accelerators.peer_watch
    with watch(config.compute.timeout_seconds):
        result = accelerators.on_main(accelerator, lambda: directory.completed(config))
        is_new = result is None
        if result is None:
            accelerators.say(accelerator, plan)
            if plan.advice and accelerator.is_main_process:
                print(f"warning: {plan.advice}", file=sys.stderr, flush=True)
            job = assemble(config, accelerator, directory, stop, started)
            has_follower = trackers and accelerator.is_main_process
            say = job.progress.say
            with (
                accelerators.stopping_together(accelerator),
                followed(directory.path, say) if has_follower else nullcontext(),
                watch(config.compute.timeout_seconds),
            ):
                result = train(job)
        else:
            accelerators.say(accelerator, f"{directory.path} is complete; nothing to do")
    accelerator.end_training()
    if accelerator.is_main_process:
        if is_new and config.log.report:
            _report(directory.path, directory.report)
        print(result_table(result, directory.path, directory.report))


def _report(run: Path, page: Path) -> None:
    """Write the run's page. The result is on disk: the run is complete whatever happens here."""
    try:
        from lenet_dist.reporting.page import write
        from lenet_dist.reporting.run import read

        write([read(run)], page)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(
            f"warning: no report: {reason}; once that is mended: python -m lenet_dist.report {run}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    exits.run(main)
