"""The controller, fed with numbers: which evaluation computes, and what a metric makes of the rate."""

import math
from dataclasses import replace

import pytest
import torch

from adacache_core import FAST_30, Codebook, MotionConfig, Watch
from adacache_core.decide.base import Course
from adacache_core.decide.metric import BlockState, Sums

N = 30
EVERY_FOURTH = Codebook(((1.0, 4),), N)


def controller_of(moreg=None, codebook=FAST_30, steps=N, **course):
    return codebook.controller(Course(steps, **course), moreg)


def sums(change, motion=None):
    """What a probe measures when it changed by `change` and its frames differ by `motion`."""
    return Sums(torch.tensor([change, 1.0]), None if motion is None else torch.tensor([[motion, 0.5, 0.5]]))


def reading_at(controller, step, measured, state=None):
    """The state after a computed step that measured this."""
    return controller.computed(state or controller.begin(), step, measured)


def run(controller, change=0.2, motion=None, evaluations_per_step=1):
    """Which evaluations compute when every measured change is the same."""
    computed, state = [], controller.begin()
    for step in range(controller.course.steps):
        for evaluation in range(evaluations_per_step):
            if controller.decide(state, step).compute:
                measured = sums(change, motion) if step > 0 and controller.measures(state, step) else None
                state = controller.computed(state, step, measured)
                computed.append((step, evaluation))
    return computed


def steps_of(computed):
    return [step for step, _ in computed]


def test_the_first_step_and_the_last_two_always_compute():
    computed = steps_of(run(controller_of(codebook=Codebook(((1.0, 100),), N))))
    assert computed == [0, 1, 28, 29]


def test_the_last_two_steps_are_protected_only_if_the_run_ends_there():
    assert steps_of(run(controller_of(codebook=Codebook(((1.0, 100),), N), ends=False))) == [0, 1]


def test_a_rate_is_the_distance_to_the_next_computed_step():
    assert steps_of(run(controller_of(codebook=EVERY_FOURTH))) == [0, 1, 5, 9, 13, 17, 21, 25, 28, 29]


def test_without_a_metric_nothing_is_reused():
    controller = controller_of(codebook=EVERY_FOURTH)
    state = controller.begin()
    for step in range(N):
        assert controller.decide(state, step).compute
        state = controller.computed(state, step)


def test_rate_one_always_computes():
    computed = run(controller_of(codebook=Codebook(((1.0, 1),), N)), evaluations_per_step=2)
    assert len(computed) == 2 * N


def test_steps_that_are_always_computed_are_computed():
    outside = {step: "so" for step in range(N) if not 15 <= step < 24}
    controller = controller_of(codebook=EVERY_FOURTH, always=outside)
    assert steps_of(run(controller)) == [*range(15), 18, 22, *range(24, 30)]
    assert controller.decide(controller.computed(controller.begin(), 0), 5).reason == "so"
    every = dict.fromkeys(range(N), "so")
    assert steps_of(run(controller_of(codebook=EVERY_FOURTH, always=every))) == list(range(N))


def test_the_second_evaluation_of_a_step_is_reused_within_a_period():
    computed = run(controller_of(codebook=EVERY_FOURTH), evaluations_per_step=2)
    first_two = [(0, 0), (0, 1), (1, 0)]  # the rate is known after the first evaluation of step 1
    last_two = [(28, 0), (28, 1), (29, 0), (29, 1)]
    assert computed == [*first_two, *((step, 0) for step in (5, 9, 13, 17, 21, 25)), *last_two]


def test_only_the_first_evaluation_of_a_step_is_measured():
    controller = controller_of(codebook=EVERY_FOURTH)
    state = controller.begin()
    for step in range(5):
        assert controller.measures(state, step)
        state = controller.computed(state, step)
        assert not controller.measures(state, step)


def test_a_step_index_that_goes_back_is_not_measured_again():
    controller = controller_of(codebook=EVERY_FOURTH)
    state = controller.computed(controller.begin(), 7)
    assert not controller.measures(state, 6)
    state = controller.computed(state, 6)
    assert not controller.measures(state, 7)
    assert controller.measures(state, 8)


def test_a_run_that_begins_in_the_middle_computes_its_first_evaluation():
    controller = controller_of(codebook=EVERY_FOURTH)
    assert controller.decide(controller.begin(), 12).compute


def test_the_change_is_divided_by_the_planned_distance():
    state = reading_at(controller_of(), 9, sums(0.6), BlockState(rate=6))
    assert state.reading.metric == pytest.approx(0.1)
    assert state.rate == 5


@pytest.mark.parametrize("change", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_takes_the_smallest_rate(change):
    controller = controller_of(codebook=Codebook(((0.1, 4), (0.2, 2), (1.0, 3)), N))
    assert reading_at(controller, 1, sums(change)).rate == 2


@pytest.mark.parametrize("bad", [sums(math.nan, 0.4), sums(0.2, math.nan), sums(math.inf, math.inf)])
def test_a_metric_that_is_not_finite_does_not_spoil_the_next_step(bad):
    controller = controller_of(MotionConfig())
    fresh = replace(reading_at(controller, 9, sums(0.2, 0.4)), rate=1)
    spoiled = reading_at(controller, 10, bad, fresh)
    after, expected = (reading_at(controller, 11, sums(0.2, 0.4), replace(state, rate=1)) for state in (spoiled, fresh))
    assert not math.isfinite(spoiled.reading.metric)
    assert after.reading.metric == pytest.approx(expected.reading.metric)
    assert after.rate == expected.rate


def test_what_is_computed_but_not_measured_changes_no_rate():
    controller = controller_of()
    state = reading_at(controller, 1, sums(0.1))
    assert controller.computed(state, 2).rate == state.rate > 1
    assert controller.computed(state, 2).reading is state.reading


def test_moregs_window_is_the_published_one_by_default():
    windows = {steps: controller_of(MotionConfig(), steps=steps) for steps in (30, 100)}
    inside = {
        steps: [step + 1 for step in range(steps) if each.in_moreg_window(step)] for steps, each in windows.items()
    }
    assert inside == {30: list(range(4, 27)), 100: list(range(10, 91))}


@pytest.mark.parametrize("steps", [7, 22, 23, 25, 30, 100])
def test_a_window_of_ones_own_includes_both_ends(steps):
    """15 / 22 * 22 is a little less than 15: the comparison must not be made that way round."""
    for first in range(1, steps + 1):
        controller = controller_of(MotionConfig(window=(first / steps, first / steps)), steps=steps)
        assert [step + 1 for step in range(steps) if controller.in_moreg_window(step)] == [first]


def test_a_window_in_percent_includes_the_step_at_that_percentage():
    controller = controller_of(MotionConfig(window=(0.07, 0.29)), steps=100)
    assert [step + 1 for step in range(100) if controller.in_moreg_window(step)] == list(range(7, 30))


def test_lively_videos_are_computed_more_often():
    still, lively = (steps_of(run(controller_of(MotionConfig()), change=0.2, motion=motion)) for motion in (0.2, 0.6))
    assert len(still) < len(lively)


def test_outside_the_window_only_the_memory_of_motion_counts():
    controller = controller_of(MotionConfig(window=(0.3, 0.4)))
    state = reading_at(controller, 2, sums(0.2, 0.7))
    assert state.reading.metric == pytest.approx(0.2)
    state = reading_at(controller, 9, sums(0.2, 0.385), state)  # inside: the remembered factor becomes one
    state = reading_at(controller, 20, sums(0.2 * state.rate, 0.7), state)
    assert state.reading.metric == pytest.approx(0.2, rel=1e-3)


def test_frames_that_cannot_be_compared_leave_the_plain_metric():
    reading = reading_at(controller_of(MotionConfig()), 9, sums(0.2, None)).reading
    assert reading.metric == pytest.approx(0.2)
    assert reading.moreg is None


@pytest.mark.parametrize(("strength", "factor"), [(0.0, 1.0), (0.5, 16.0), (1.0, 256.0), (2.0, 65536.0)])
def test_strength_is_an_exponent_on_the_factor(strength, factor):
    controller = controller_of(MotionConfig(strength=strength, gradient=0))
    assert reading_at(controller, 9, sums(0.1, 0.77)).reading.metric == pytest.approx(0.1 * factor, rel=1e-3)


def test_the_papers_form_multiplies_with_motion_and_its_gradient():
    controller = controller_of(MotionConfig(form="paper"))
    state = reading_at(controller, 9, sums(0.4, 0.5))
    assert state.reading.metric == pytest.approx(0.2)
    state = reading_at(controller, 11, sums(0.8, 0.7), replace(state, rate=2))
    assert state.reading.metric == pytest.approx(0.4 * (0.7 + 0.1))


def test_the_codebook_is_scaled_to_the_run():
    assert controller_of(steps=100).codebook.entries[0] == (0.03, 12)


def test_reasons_are_given_in_the_order_in_which_they_arise():
    controller, reasons = controller_of(codebook=EVERY_FOURTH), []
    state = controller.begin()
    for step in range(N):
        decision = controller.decide(state, step)
        reasons.append(decision.reason)
        if decision.compute:
            state = controller.computed(state, step, sums(0.2) if step else None)
    assert reasons[:7] == ["first step", "no metric yet", "rate 4", "rate 4", "rate 4", "due", "rate 4"]
    assert reasons[-2:] == ["last steps", "last steps"]


def test_watching_computes_and_measures_every_step_at_rate_one():
    controller = Watch().controller(Course(N), MotionConfig())
    assert len(run(controller)) == N
    state = reading_at(controller, 9, sums(0.2, 0.77))
    assert state.rate == 1
    assert state.reading.metric == pytest.approx(0.2 * state.reading.moreg)
    assert controller.table == ""
