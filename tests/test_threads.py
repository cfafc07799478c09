"""CPU threads: no more than give the bits of one."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from lenet_dist.training.threads import has_bits_of_one, one_thread, settle_threads


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def other_bits_on_more_than(most: int) -> Tensor:
    return torch.tensor([1.0, -0.0 if torch.get_num_threads() > most else 0.0])


@pytest.mark.parametrize(
    ("asked", "most", "used"), [(8, 8, 8), (8, 7, 4), (14, 8, 7), (14, 2, 1), (3, 1, 1), (1, 1, 1)]
)
def test_all_a_half_or_a_quarter_of_the_threads_are_used(
    accelerator: Accelerator, asked: int, most: int, used: int, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(asked)
    settle_threads(accelerator, lambda: other_bits_on_more_than(most))
    assert torch.get_num_threads() == used
    said = f"{used} CPU threads instead of {asked}, which give other bits here\n"
    assert capsys.readouterr().out == (said if used < asked else "")


def test_a_zero_of_the_other_sign_is_another_bit() -> None:
    torch.set_num_threads(2)
    assert has_bits_of_one(lambda: other_bits_on_more_than(2))
    assert not has_bits_of_one(lambda: other_bits_on_more_than(1))


def test_one_thread_lasts_as_long_as_its_body() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == 3
