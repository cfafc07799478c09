"""Sample images that W&B shows of a complete run: made where torch is, kept in RUN/wandb."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lenet_dist.config import Config
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import write_atomically
from lenet_dist.run_dir.directory import RunDirectory

_COUNT = 24
_FILE = "wandb/sample-images.npz"

SampleImages = dict[str, NDArray[Any]]
"""The worst mistakes in the test set, the worst first: `mistake` uint8 [n, 28, 28], `label`,
`prediction` and its `probability`; `augmented` uint8 [m, 28, 28], training images as the first
epoch saw them."""


def keep(run: Path, config: Config) -> None:
    """Keep a complete run's sample images for its trackers, so that they need no torch."""
    images, content = _make(run, config), io.BytesIO()
    if images:
        np.savez(content, **images)  # type: ignore[arg-type]
        with suppress(OSError, RunFailed):  # No picture is worth a complete run.
            (run / _FILE).parent.mkdir(exist_ok=True)
            write_atomically(run / _FILE, content.getvalue())


def of_run(run: Path, config: Config) -> SampleImages | None:
    """A complete run's sample images, made now if none were kept.

    None if there can't be any: the data is missing, or the model is not LeNet-5.
    """
    if not (run / _FILE).exists():
        return _make(run, config)
    with np.load(run / _FILE) as kept:
        return dict(kept)


def _make(run: Path, config: Config) -> SampleImages | None:
    from lenet_dist.data import dataset, sampler
    from lenet_dist.data.augment import Augmentation
    from lenet_dist.model import weights
    from lenet_dist.model.inference import forward_of
    from lenet_dist.model.inspect import worst_mistakes

    try:
        model = weights.read(RunDirectory(run).weights).eval()
        test = dataset.load(config.data, "test")
        training_set = dataset.load(config.data, "train")
    except (RequestError, OSError):
        return None
    logits = forward_of(model)(dataset.pixels(test.images))
    worst = worst_mistakes(logits, test.labels, test.images, _COUNT)
    training_ids, _ = sampler.split(config.seed, len(training_set), config.data.validation)
    first_ids = sampler.order(config.seed, 0, training_ids)[:_COUNT]
    images, _, ids = training_set.batch_of(first_ids)
    augmented = Augmentation(config.augment, config.seed)(dataset.pixels(images), ids, 0)[:, 0]
    return {
        "mistake": test.images[[mistake.sample_id for mistake in worst]].numpy(),
        "label": np.array([mistake.label for mistake in worst]),
        "prediction": np.array([mistake.prediction for mistake in worst]),
        "probability": np.array([mistake.probability for mistake in worst]),
        "augmented": augmented.mul(255).round().byte().numpy(),
    }
