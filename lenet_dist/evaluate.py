"""Exact test metrics of a run's weights, or of a weights file, on any number of processes.

    python -m lenet_dist.evaluate RUN_OR_WEIGHTS [--json] [key=value ...]
    torchrun --nproc-per-node N -m lenet_dist.evaluate RUN_OR_WEIGHTS ...

A run is evaluated with its own config, a weights file with the schema's defaults.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from lenet_dist import exits
from lenet_dist.config import Config
from lenet_dist.exits import RequestError
from lenet_dist.request import load
from lenet_dist.run_dir.directory import locate_weights


def main(arguments: list[str]) -> None:
    """Evaluate as asked, and print one line."""
    parser = exits.ArgumentParser(
        prog="lenet_dist.evaluate",
        usage="%(prog)s [-h] [--json] RUN_OR_WEIGHTS [key=value ...]",
        description=__doc__,
    )
    parser.add_argument("target", metavar="RUN_OR_WEIGHTS", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    request, overrides = parser.parse_known_args(arguments)
    weights_file, config_file = locate_weights(request.target)
    config = load(config_file, overrides)
    _evaluate(config, weights_file, as_json=request.json)


def _evaluate(config: Config, weights_file: Path, *, as_json: bool) -> None:
    import torch

    from lenet_dist.data import dataset, fetch
    from lenet_dist.distributed import ranks
    from lenet_dist.distributed.accelerator import (
        auto_threads,
        on_each,
        on_each_node,
        peer_watch,
        say,
        start_accelerator,
    )
    from lenet_dist.model import weights
    from lenet_dist.model.inference import forward_of
    from lenet_dist.train.exact_evaluation import evaluate

    ranks.adopt_ranks()
    # Always in full precision, even if the weights were trained in less on another machine.
    accelerator = start_accelerator(replace(config.compute, precision="no", cuda_graph=False))
    with peer_watch(config.compute.timeout_seconds):
        threads = config.compute.threads
        threads = auto_threads() if threads == "auto" else threads
        torch.set_num_threads(threads)
        model = on_each(lambda: weights.read(weights_file))
        on_each_node(accelerator, lambda: fetch.ensure(config.data))
        images = on_each(lambda: dataset.load(config.data, "test"))
        device = accelerator.device
        chunk_size = config.evaluate.batch_size
        forward = forward_of(model.to(device), config.compute.kernels)
        result = evaluate(forward, images.to(device), dataset.CLASSES, chunk_size, accelerator)
    if not math.isfinite(result.loss):
        raise RequestError(f"{weights_file}: its loss is {result.loss}")
    if as_json:
        say(accelerator, json.dumps(result.summary()))
    else:
        say(
            accelerator,
            f"accuracy {result.accuracy:.4f}, correct {result.correct}, count {result.count},"
            f" loss {result.loss:.6f}",
        )
    accelerator.end_training()


if __name__ == "__main__":
    exits.run(main)
