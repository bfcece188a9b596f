"""How fast a residual changes, in numbers that can be checked by hand."""

import pytest
import torch

from adacache_core.decide.change import change_per_step, change_sums


def test_the_sums_are_those_of_the_difference_and_of_the_old_residual():
    old = torch.tensor([[[1.0, -2.0], [3.0, -4.0]]])
    new = torch.tensor([[[2.0, -2.0], [3.0, -1.0]]])
    assert change_sums(new, old).tolist() == [4.0, 10.0]


def test_the_change_is_relative_to_the_old_residual_and_shared_out_over_the_planned_steps():
    relative, per_step = change_per_step(torch.tensor([4.0, 10.0]), rate=5)
    assert float(relative) == pytest.approx(0.4)
    assert float(per_step) == pytest.approx(0.08)


def test_the_whole_batch_has_one_change():
    old, new = torch.ones(2, 3, 4), torch.ones(2, 3, 4)
    new[1] += 2
    assert change_sums(new, old).tolist() == [24.0, 24.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_are_summed_without_overflow_or_loss(dtype):
    old = torch.full((1, 1000, 64), 100.0, dtype=dtype)  # the sum is a hundred times the largest float16
    new = torch.full((1, 1000, 64), 110.0, dtype=dtype)
    sums = change_sums(new, old)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [640_000.0, 6_400_000.0]


def test_nothing_over_nothing_is_not_a_number_and_something_over_nothing_is_infinite():
    assert change_per_step(torch.tensor([0.0, 0.0]), 1)[0].isnan()
    assert change_per_step(torch.tensor([1.0, 0.0]), 1)[0].isinf()
