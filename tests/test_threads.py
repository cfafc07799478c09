"""CPU threads: whether they give the bits of one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lenet_dist.train.threads import has_bits_of_one, one_thread


def other_bits_on_more_than(most: int) -> Tensor:
    return torch.tensor([1.0, -0.0 if torch.get_num_threads() > most else 0.0])


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
