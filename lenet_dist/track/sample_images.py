"""SampleImages that W&B shows of a complete run: made where torch is, kept in RUN/wandb."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lenet_dist.config import Config
from lenet_dist.exits import RequestError, RunFailed
from lenet_dist.files import write_atomically
from lenet_dist.run_dir.directory import RunDirectory

_PICTURES = 24


class SampleImages(NamedTuple):
    """The worst mistakes in the test set, and training images as the first epoch saw them."""

    mistakes: NDArray[np.uint8]
    """[n, 28, 28], the worst first."""
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """What the model gave each prediction."""
    augmented: NDArray[np.uint8]
    """[m, 28, 28]"""


def keep(run: Path, config: Config) -> None:
    """Keep a complete run's pictures for its trackers, so that their process needs no torch."""
    pictures, content = _make(run, config), io.BytesIO()
    if pictures:
        np.savez(content, **pictures._asdict())
        with suppress(OSError, RunFailed):  # No picture is worth a complete run.
            _file(run).parent.mkdir(exist_ok=True)
            write_atomically(_file(run), content.getvalue())


def of_run(run: Path, config: Config) -> SampleImages | None:
    """A complete run's pictures, made now if none were kept.

    None if there can't be any: the data is missing, or the model is another one.
    """
    if not _file(run).exists():
        return _make(run, config)
    with np.load(_file(run)) as kept:
        return SampleImages(*(kept[name] for name in SampleImages._fields))


def _file(run: Path) -> Path:
    return run / "wandb" / "pictures.npz"


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
    worst = worst_mistakes(logits, test.labels, test.images, _PICTURES)
    training_ids, _ = sampler.split(config.seed, len(training_set), config.data.validation)
    first_ids = sampler.order(config.seed, 0, training_ids)[:_PICTURES]
    images, _, ids = training_set.batch_of(first_ids)
    augmented = Augmentation(config.augment, config.seed)(dataset.pixels(images), ids, 0)[:, 0]
    return SampleImages(
        np.array([mistake.image.numpy() for mistake in worst], np.uint8).reshape(-1, 28, 28),
        np.array([mistake.label for mistake in worst], np.int64),
        np.array([mistake.prediction for mistake in worst], np.int64),
        np.array([mistake.probability for mistake in worst], np.float64),
        augmented.mul(255).round().byte().numpy(),
    )
