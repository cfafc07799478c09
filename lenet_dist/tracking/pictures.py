"""Pictures that trackers show of a complete run."""

from __future__ import annotations

from pathlib import Path

import torch

from lenet_dist.config import Config
from lenet_dist.data import dataset, sampler
from lenet_dist.data.augment import Distortion
from lenet_dist.data.dataset import pixels
from lenet_dist.exits import RequestError
from lenet_dist.model import weights
from lenet_dist.model.inspect import worst_mistakes
from lenet_dist.run.directory import RunDirectory
from lenet_dist.tracking.ending import Mistake, Pictures

_PICTURES = 24


def pictures_of(run: Path, config: Config) -> Pictures | None:
    """The worst mistakes of a complete run, and the first training images as it saw them.

    None if there can't be any: the data is missing, or the model is another one.
    """
    try:
        model = weights.read(RunDirectory(run).weights).eval()
        test = dataset.load(config.data, "test")
        training_set = dataset.load(config.data, "train")
    except (RequestError, OSError):
        return None
    with torch.no_grad():
        logits = model(pixels(test.images))
    worst = worst_mistakes(logits, test.labels, test.images, _PICTURES)
    training_ids, _ = sampler.split(config.seed, len(training_set), config.data.validation)
    first_ids = sampler.order(config.seed, 0, training_ids)[:_PICTURES]
    images, _, ids = training_set.batch_of(first_ids)
    augmented = Distortion(config.augment, config.seed)(pixels(images), ids, 0)[:, 0]
    distorted = augmented.mul(255).round().byte().numpy()
    return Pictures(
        [Mistake(m.image.numpy(), m.label, m.prediction, m.probability) for m in worst],
        list(distorted),
    )
