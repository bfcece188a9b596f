"""The controller, fed with numbers: which evaluation computes, and what a metric makes of the rate."""

import math

import pytest
import torch

from adacache_core import FAST_30, CacheConfig, Codebook, MotionConfig, ScheduleState

N = 30
EVERY_FOURTH = CacheConfig(Codebook(((1.0, 4),), N))


def state_of(moreg=None, codebook=FAST_30, steps=N, **settings):
    return ScheduleState(CacheConfig(codebook, moreg, **settings), steps)


def sums(change, motion=None):
    """What a probe measures when it changed by `change` and its frames differ by `motion`."""
    return torch.tensor([change, 1.0]), None if motion is None else torch.tensor([[motion, 0.5, 0.5]])


def run(state, change=0.2, motion=None, evaluations_per_step=1):
    """Which evaluations compute when every measured change is the same."""
    computed = []
    for step in range(state.steps):
        for evaluation in range(evaluations_per_step):
            decision = state.decide(step)
            if decision.compute:
                if step > 0 and state.wants_metric(step):
                    state.observe(step, {"probe": sums(change, motion)})
                state.computed(step)
                computed.append((step, evaluation))
    return computed


def steps_of(computed):
    return [step for step, _ in computed]


def test_the_first_step_and_the_last_two_always_compute():
    computed = steps_of(run(state_of(codebook=Codebook(((1.0, 100),), N))))
    assert computed == [0, 1, 28, 29]


def test_the_last_two_steps_are_protected_only_if_the_run_ends_there():
    state = ScheduleState(CacheConfig(Codebook(((1.0, 100),), N)), N, ends_at_zero=False)
    assert steps_of(run(state)) == [0, 1]


def test_a_rate_is_the_distance_to_the_next_computed_step():
    assert steps_of(run(ScheduleState(EVERY_FOURTH, N))) == [0, 1, 5, 9, 13, 17, 21, 25, 28, 29]


def test_without_a_metric_nothing_is_reused():
    state = ScheduleState(EVERY_FOURTH, N)
    for step in range(N):
        assert state.decide(step).compute
        state.computed(step)


def test_rate_one_always_computes():
    computed = run(state_of(codebook=Codebook(((1.0, 1),), N)), evaluations_per_step=2)
    assert len(computed) == 2 * N


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.6, 0.4)])
def test_start_equal_to_or_after_end_computes_everything(start, end):
    assert steps_of(run(state_of(start=start, end=end))) == list(range(N))


def test_reuse_happens_between_start_and_end():
    computed = steps_of(run(state_of(start=0.5, end=0.8)))
    reused = sorted(set(range(N)) - set(computed))
    assert computed[:15] == list(range(15))
    assert min(reused) >= 15
    assert 15 in reused
    assert max(reused) < 24


def test_the_second_evaluation_of_a_step_is_reused_within_a_period():
    computed = run(ScheduleState(EVERY_FOURTH, N), evaluations_per_step=2)
    first_two = [(0, 0), (0, 1), (1, 0)]  # the rate is known after the first evaluation of step 1
    last_two = [(28, 0), (28, 1), (29, 0), (29, 1)]
    assert computed == [*first_two, *((step, 0) for step in (5, 9, 13, 17, 21, 25)), *last_two]


def test_only_the_first_evaluation_of_a_step_is_measured():
    state = ScheduleState(EVERY_FOURTH, N)
    for step in range(5):
        assert state.wants_metric(step)
        state.computed(step)
        assert not state.wants_metric(step)


def test_a_step_index_that_goes_back_is_not_measured_again():
    state = ScheduleState(EVERY_FOURTH, N)
    state.computed(7)
    assert not state.wants_metric(6)
    state.computed(6)
    assert not state.wants_metric(7)
    assert state.wants_metric(8)


def test_a_run_that_begins_in_the_middle_computes_its_first_evaluation():
    state = ScheduleState(EVERY_FOURTH, N)
    assert state.decide(12).compute


def test_the_change_is_divided_by_the_planned_distance():
    state = state_of()
    state.rate = 6
    reading = state.observe(9, {"probe": sums(0.6)})["probe"]
    assert float(reading.relative) == pytest.approx(0.6)
    assert float(reading.metric) == pytest.approx(0.1)
    assert state.rate == reading.rate == 5


def test_of_several_probes_the_mean_change_counts():
    state = state_of()
    readings = state.observe(1, {"a": sums(0.1), "b": sums(0.3), "c": sums(0.5)})
    assert [float(reading.metric) for reading in readings.values()] == pytest.approx([0.1, 0.2, 0.3])
    assert state.rate == FAST_30.rate_for(0.3)


def test_of_several_probes_the_last_ones_motion_counts():
    state = state_of(MotionConfig(gradient=0))
    readings = state.observe(9, {"a": sums(0.1, 0.77), "b": sums(0.3, 0.385)})
    assert float(readings["b"].metric) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("change", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_takes_the_smallest_rate(change):
    state = state_of(codebook=Codebook(((0.1, 4), (0.2, 2), (1.0, 3)), N))
    assert state.observe(1, {"probe": sums(change)})["probe"].rate == state.rate == 2


@pytest.mark.parametrize("bad", [sums(math.nan, 0.4), sums(0.2, math.nan), sums(math.inf, math.inf)])
def test_a_metric_that_is_not_finite_does_not_spoil_the_next_step(bad):
    spoiled, fresh = state_of(MotionConfig()), state_of(MotionConfig())
    for state in (spoiled, fresh):
        state.observe(9, {"probe": sums(0.2, 0.4)})
        state.rate = 1
    spoiled.observe(10, {"probe": bad})
    after, expected = (state.observe(11, {"probe": sums(0.2, 0.4)})["probe"] for state in (spoiled, fresh))
    assert float(after.metric) == pytest.approx(float(expected.metric))
    assert after.rate == expected.rate


def test_moregs_window_is_the_published_one_by_default():
    windows = {steps: state_of(MotionConfig(), steps=steps) for steps in (30, 100)}
    inside = {
        steps: [step + 1 for step in range(steps) if state.in_moreg_window(step)] for steps, state in windows.items()
    }
    assert inside == {30: list(range(4, 27)), 100: list(range(10, 91))}


@pytest.mark.parametrize("steps", [7, 22, 23, 25, 30, 100])
def test_a_window_of_ones_own_includes_both_ends(steps):
    """15 / 22 * 22 is a little less than 15: the comparison must not be made that way round."""
    for first in range(1, steps + 1):
        state = state_of(MotionConfig(window=(first / steps, first / steps)), steps=steps)
        assert [step + 1 for step in range(steps) if state.in_moreg_window(step)] == [first]


def test_a_window_in_percent_includes_the_step_at_that_percentage():
    state = state_of(MotionConfig(window=(0.07, 0.29)), steps=100)
    assert [step + 1 for step in range(100) if state.in_moreg_window(step)] == list(range(7, 30))


def test_lively_videos_are_computed_more_often():
    still, lively = (steps_of(run(state_of(MotionConfig()), change=0.2, motion=motion)) for motion in (0.2, 0.6))
    assert len(still) < len(lively)


def test_outside_the_window_only_the_memory_of_motion_counts():
    state = state_of(MotionConfig(window=(0.3, 0.4)))
    assert float(state.observe(2, {"probe": sums(0.2, 0.7)})["probe"].metric) == pytest.approx(0.2)
    state.observe(9, {"probe": sums(0.2, 0.385)})  # inside: the remembered factor becomes one
    assert float(state.observe(20, {"probe": sums(0.2 * state.rate, 0.7)})["probe"].metric) == pytest.approx(
        0.2, rel=1e-3
    )


def test_frames_that_cannot_be_compared_leave_the_plain_metric():
    state = state_of(MotionConfig())
    reading = state.observe(9, {"probe": sums(0.2, None)})["probe"]
    assert float(reading.metric) == pytest.approx(0.2)
    assert reading.moreg is None


@pytest.mark.parametrize(("strength", "factor"), [(0.0, 1.0), (0.5, 16.0), (1.0, 256.0), (2.0, 65536.0)])
def test_strength_is_an_exponent_on_the_factor(strength, factor):
    state = state_of(MotionConfig(strength=strength, gradient=0))
    reading = state.observe(9, {"probe": sums(0.1, 0.77)})["probe"]
    assert float(reading.metric) == pytest.approx(0.1 * factor, rel=1e-3)


def test_the_papers_form_multiplies_with_motion_and_its_gradient():
    state = state_of(MotionConfig(form="paper"))
    assert float(state.observe(9, {"probe": sums(0.4, 0.5)})["probe"].metric) == pytest.approx(0.2)
    state.rate = 2
    assert float(state.observe(11, {"probe": sums(0.8, 0.7)})["probe"].metric) == pytest.approx(0.4 * (0.7 + 0.1))


def test_the_codebook_is_scaled_to_the_run():
    assert state_of(steps=100).codebook.entries[0] == (0.03, 12)


def test_reasons_are_given_in_the_order_in_which_they_arise():
    state = ScheduleState(EVERY_FOURTH, N)
    reasons = []
    for step in range(N):
        decision = state.decide(step)
        reasons.append(decision.reason)
        if decision.compute:
            if step:
                state.observe(step, {"probe": sums(0.2)})
            state.computed(step)
    assert reasons[:7] == ["first step", "no metric yet", "rate 4", "rate 4", "rate 4", "due", "rate 4"]
    assert reasons[-2:] == ["last steps", "last steps"]
