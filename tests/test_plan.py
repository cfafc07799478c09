"""What a request amounts to: steps, shards and shares that add up, or a refusal that helps."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lenet_dist.config import TRAINING_IMAGES, Config
from lenet_dist.exits import RequestError
from lenet_dist.plan import validate
from lenet_dist.request import load
from tests.properties import PROPERTY


@st.composite
def requests(draw: st.DrawFn) -> tuple[Config, int]:
    """A config of sizes, and a number of processes."""
    config = Config()
    config.data.name = draw(st.sampled_from(["mnist", "fashion_mnist", "synthetic"]))
    config.data.validation = draw(st.integers(0, 5000))
    config.train.epochs = draw(st.integers(1, 20))
    config.train.max_steps = draw(st.none() | st.integers(1, 10_000))
    config.train.shards = draw(st.integers(1, 64))
    config.train.reduction = draw(st.sampled_from(["fixed", "ddp"]))
    world_size = draw(st.integers(1, 16))
    parts = config.train.shards if config.train.reduction == "fixed" else world_size
    config.train.batch_size = parts * draw(st.integers(1, 40))
    return config, world_size


@PROPERTY
@given(request=requests())
def test_a_plan_adds_up(request: tuple[Config, int]) -> None:
    config, world_size = request
    plan = validate(config, world_size)
    assert plan.shard_size * plan.shards == plan.batch_size == config.train.batch_size
    by_rank = plan.shards_by_rank
    assert [shard for shards in by_rank for shard in shards] == list(range(plan.shards))
    assert len(by_rank) == world_size and len(by_rank[0]) - len(by_rank[-1]) in (0, 1)
    assert (plan.advice is None) == all(by_rank)
    assert plan.training_images == TRAINING_IMAGES[config.data.name] - config.data.validation
    used = plan.steps_per_epoch * plan.batch_size
    assert 0 < used <= plan.training_images < used + plan.batch_size
    whole = config.train.epochs * plan.steps_per_epoch
    assert plan.total_steps == min(whole, config.train.max_steps or whole)
    assert plan.epoch_of(1) == 1
    assert plan.epoch_of(whole) == config.train.epochs
    if config.train.reduction == "ddp":
        assert {len(shards) for shards in by_rank} == {1}
    else:
        assert plan.shards == config.train.shards
    numbers = {int(number) for number in re.findall(r"\d+", str(plan))}
    assert {plan.batch_size, world_size, plan.shard_size, plan.total_steps} <= numbers


@pytest.mark.parametrize(
    ("world_size", "sizes", "advice"),
    [
        (3, [3, 3, 2], None),
        (8, [1] * 8, None),
        (16, [1] * 8 + [0] * 8, "8 of 16 processes have no shard to compute; train.shards=16"),
        (12, [1] * 8 + [0] * 4, "4 of 12 processes have no shard to compute; train.shards=16"),
        (100, [1] * 8 + [0] * 92, "no train.shards can use them all"),
    ],
)
def test_shards_are_dealt_as_evenly_as_they_can_be(
    world_size: int, sizes: list[int], advice: str | None
) -> None:
    plan = validate(load(None, ["train.batch_size=64", "train.shards=8"]), world_size)
    assert [len(shards) for shards in plan.shards_by_rank] == sizes
    assert (advice or "") in (plan.advice or "") and (advice is None) == (plan.advice is None)


@pytest.mark.parametrize(
    ("sizes", "world_size", "message"),
    [
        (["train.batch_size=100"], 1, "nearest sizes that can: 96 or 112"),
        (["train.batch_size=4"], 1, "nearest sizes that can: 16"),
        (["train.batch_size=7", "train.reduction=ddp"], 2, "nearest sizes that can: 6 or 8"),
        (["train.shards=100000"], 1, "there are only 55000 training images"),
        (["data.validation=60000"], 1, "data.validation=60000 leaves 0 training images"),
        (["data.name=synthetic", "data.validation=11900"], 1, "fewer than train.batch_size=256"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(
    sizes: list[str], world_size: int, message: str
) -> None:
    with pytest.raises(RequestError) as refused:
        validate(load(None, sizes), world_size)
    assert message in str(refused.value)
