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


def torch_one_cycle(peak: float, total: int, pct_start: float, final: float) -> list[float]:
    """torch's curve, ending at that share of the peak."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    scheduler = OneCycleLR(
        optimizer,
        max_lr=peak,
        total_steps=total,
        pct_start=pct_start,
        anneal_strategy="cos",
        cycle_momentum=False,
        div_factor=25,
        final_div_factor=1 / (25 * final),
    )
    rates = []
    for step in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    return rates


@PROPERTY
@given(
    peak=PEAKS,
    total=st.integers(5, 200),
    warmup=st.floats(0.01, 0.99),
    final=st.floats(1e-6, 1),
)
def test_one_cycle_is_torchs_with_the_peak_one_step_later(
    peak: float, total: int, warmup: float, final: float
) -> None:
    """torch peaks at step pct_start * total - 1, counted from 0; here it is warmup * total.

    So torch's curve with pct_start one step longer is the same at every step.
    """
    pct_start = warmup + 1 / total
    assume(pct_start * total <= total - 1)  # torch divides by the length of the fall.
    rates = curve(Schedule("one_cycle", warmup=warmup, final=final), peak, total)
    expected = torch_one_cycle(peak, total, pct_start, final)
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-9 * peak)
