"""The learning rate: a function of the step, with the shapes that its names promise."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import OneCycleLR

from lenet_dist.config import Schedule
from lenet_dist.train.schedule import learning_rate
from tests.properties import PROPERTY

NAMES = st.sampled_from(["constant", "cosine", "one_cycle"])
PEAKS = st.floats(1e-6, 10)
TOTALS = st.integers(1, 300)
SHARES = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


def curve(schedule: Schedule, peak: float, total_steps: int) -> list[float]:
    """The learning rates of all steps."""
    return [learning_rate(schedule, peak, step, total_steps) for step in range(total_steps)]


@PROPERTY
@given(name=NAMES, peak=PEAKS, total=TOTALS, warmup=SHARES, final=SHARES)
def test_it_rises_during_the_warm_up_and_never_after(
    name: str, peak: float, total: int, warmup: float, final: float
) -> None:
    assume(warmup < 1)
    rates = curve(Schedule(name=name, warmup=warmup, final=final), peak, total)  # type: ignore[arg-type]
    top = math.ceil(warmup * total)  # The peak may lie between two steps.
    rise, fall = rates[:top], rates[top:]
    assert rise == sorted(rise) and len(set(rise)) == len(rise)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(fall))


def test_cosine_is_half_way_down_in_the_middle() -> None:
    rates = curve(Schedule("cosine", warmup=0, final=0.2), 1.0, 101)
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.6)
    assert rates[100] == pytest.approx(0.2)


def test_the_linear_warm_up_gives_the_first_step_a_share_and_then_equal_rises() -> None:
    rates = curve(Schedule("constant", warmup=0.4, final=0), 1.0, 10)
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_one_cycle_is_torchs_with_the_peak_one_step_later() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    # torch peaks at step pct_start * total - 1, counted from 0; here it is warmup * total.
    theirs = OneCycleLR(
        optimizer, max_lr=0.01, total_steps=100, pct_start=0.31, cycle_momentum=False,
        div_factor=25, final_div_factor=1 / (25 * 0.02),
    )  # fmt: skip
    ours = curve(Schedule("one_cycle", warmup=0.3, final=0.02), 0.01, 100)
    for rate in ours[:-1]:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()
    assert ours[-1] == pytest.approx(0.02 * 0.01)
