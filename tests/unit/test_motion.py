"""Motion between the frames of a residual and the factor made of it, by hand."""

import pytest
import torch
from toys import tokens

from adacache_core import MotionConfig
from adacache_core.decide.motion import motion_score, motion_sums, paper_factor, reference_factor, with_gradient

PUBLISHED = MotionConfig()


def test_frames_are_compared_position_by_position():
    probe = tokens(1, 2, 4, 2, 4, 8, width=1)  # three frames of two positions
    # later - earlier: (4-1, 2-2), (4-4, 8-2); later: 4+2+4+8; earlier: 1+2+4+2
    assert motion_sums(probe, 3, (1,)).tolist() == [[9.0, 18.0, 9.0]]
    assert motion_sums(probe, 3, (2,)).tolist() == [[9.0, 12.0, 3.0]]


def test_the_score_is_the_mean_over_strides():
    sums = torch.tensor([[9.0, 18.0, 9.0], [9.0, 12.0, 3.0]])
    assert float(motion_score(sums)) == pytest.approx((9 / 27 + 9 / 15) / 2)


@pytest.mark.parametrize(("probe", "score"), [(tokens(3, 3), 0.0), (tokens(3, -3), 1.0), (tokens(3, 0), 1.0)])
def test_the_score_lies_between_still_and_nothing_in_common(probe, score):
    assert float(motion_score(motion_sums(probe, 2, (1,)))) == score


def test_scores_of_several_calls_are_added_up_before_they_are_divided():
    first, second = torch.rand(1, 12, 5), torch.rand(1, 12, 5)
    together = motion_sums(torch.cat([first, second]), 4, (1, 2))
    apart = motion_sums(first, 4, (1, 2)) + motion_sums(second, 4, (1, 2))
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_stride_beyond_the_last_frame_has_no_score(stride):
    assert motion_score(motion_sums(tokens(1, 2), 1, (stride,))).isnan()


def test_short_floats_are_summed_without_overflow():
    probe = torch.full((1, 2000, 64), 100.0, dtype=torch.float16)
    assert motion_sums(probe, 2, (1,)).tolist() == [[0.0, 6_400_000.0, 6_400_000.0]]


def test_motion_at_the_pivot_gives_the_factor_one():
    moreg = reference_factor(torch.tensor(0.385), previous=torch.tensor(1.0), rate=1, config=PUBLISHED)
    assert float(moreg.base) == pytest.approx(1.0)
    assert float(moreg.factor) == pytest.approx(1.0, rel=1e-4)


def test_the_reference_raises_motion_to_the_eighth_power_and_adds_the_gradient_per_step():
    moreg = reference_factor(torch.tensor(0.77), previous=torch.tensor(250.0), rate=2, config=PUBLISHED)
    assert float(moreg.base) == pytest.approx(256)
    assert float(moreg.gradient) == pytest.approx(10 * 6 / 2, rel=1e-4)
    assert float(moreg.factor) == pytest.approx(286, rel=1e-4)


def test_less_motion_slows_skipping_just_as_more_motion_does():
    down = with_gradient(torch.tensor(1.0), torch.tensor(2.0), 1, PUBLISHED)
    up = with_gradient(torch.tensor(1.0), torch.tensor(0.0), 1, PUBLISHED)
    assert float(down.gradient) == -float(up.gradient) == -10
    assert float(down.factor) == float(up.factor) == 11


def test_pivot_power_divisor_and_gradient_are_all_used():
    config = MotionConfig(pivot=0.5, power=2, divisor=4, gradient=3)
    moreg = reference_factor(torch.tensor(1.0), previous=torch.tensor(0.0), rate=1, config=config)
    assert float(moreg.base) == 1.0
    assert float(moreg.factor) == 4.0


def test_the_papers_form_is_motion_plus_its_gradient_with_its_sign():
    moreg = paper_factor(torch.tensor(0.3), previous=torch.tensor(0.5), rate=4)
    assert float(moreg.factor) == pytest.approx(0.3 - 0.2 / 4)


def test_the_papers_form_starts_without_a_gradient():
    assert float(paper_factor(torch.tensor(0.3), None, 4).factor) == pytest.approx(0.3)
