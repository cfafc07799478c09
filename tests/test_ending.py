"""What the training process tells the trackers' process arrives there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lenet_dist.tracking.ending import Ending, Mistake, Pictures


def noise(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8))


def test_pictures_arrive_as_they_were() -> None:
    mistakes = [Mistake(image, 3, n, n / 10) for n, image in enumerate(noise(5))]
    told = Ending.of_line(Ending("completed", pictures=Pictures(mistakes, noise(24))).as_line())
    assert told.kind == "completed" and told.pictures
    assert [mistake[1:] for mistake in told.pictures.mistakes] == [m[1:] for m in mistakes]
    assert np.array_equal([m.pixels for m in told.pictures.mistakes], noise(5))
    assert np.array_equal(told.pictures.augmented, noise(24))


def test_a_run_without_mistakes_has_pictures_and_one_that_stops_has_none() -> None:
    told = Ending.of_line(Ending("completed", pictures=Pictures([], noise(24))).as_line())
    assert told.pictures and told.pictures.mistakes == [] and len(told.pictures.augmented) == 24
    stopped = Ending("stopped", "stopped by SIGTERM after step 3")
    assert Ending.of_line(stopped.as_line()) == stopped
