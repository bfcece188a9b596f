"""The error controller, on noise levels alone: errors are made up."""

import math
from itertools import pairwise

import pytest

from adacache_core import control
from adacache_core.control import Course, ErrorControl, State, flow_level


def levels(steps, shift):
    times = [1 - step / steps for step in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in times)


def run(steps=30, shift=3.0, target=2.0, hardness=1.0, computed=(), evaluations=(), tolerance=None):
    """The computed steps of a video whose errors are the usual ones times `hardness`."""
    controller = ErrorControl(
        Course(levels(steps, shift), frozenset(computed), evaluations), target if tolerance is None else None, tolerance
    )
    state, ran, why = State(), [], {}
    for step in range(steps):
        why[step] = controller.why_computed(state, step)
        if not why[step]:
            state = controller.reused(state, step)
            continue
        error = None
        if state.last is not None:
            reach = controller.places[step] - controller.places[state.last]
            error = hardness * controller._usual[step] * reach**control.GROWTH
        state = controller.computed(state, step, error)
        ran.append(step)
    return ran, why, state


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 12.0])
@pytest.mark.parametrize(
    ("steps", "target"), [(20, 1.3), (20, 2.0), (30, 2.0), (30, 3.0), (50, 2.0), (50, 3.0), (100, 4.0)]
)
def test_a_usual_video_comes_to_the_target(steps, shift, target):
    ran, _, state = run(steps, shift, target)
    assert state.evaluations == len(ran)
    assert abs(len(ran) - steps / target) <= 2


def test_beyond_the_guard_more_is_computed_than_asked_for():
    ran, _, _ = run(steps=20, target=5.0)
    assert len(ran) > 20 / 5 + 1
    assert ErrorControl(Course(levels(20, 3.0)), 5.0).allowed == control.GUARD


def test_a_target_of_one_computes_every_step():
    assert run(target=1.0)[0] == list(range(30))


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_a_harder_video_gets_more_steps(shift):
    counts = [len(run(shift=shift, hardness=hardness)[0]) for hardness in (0.4, 0.7, 1.0, 1.6, 2.5)]
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] >= 5


def test_first_and_last_steps_are_computed_and_no_stretch_is_too_long():
    ran, why, _ = run(steps=50, target=8.0, hardness=0.01)
    assert ran[:2] == [0, 1]
    assert ran[-2:] == [48, 49]
    assert [why[step] for step in (0, 1, 48, 49)] == ["first step", "first steps", "last steps", "last steps"]
    assert max(later - earlier for earlier, later in pairwise(ran)) == 11  # beyond a fifth of 50
    assert "far from the last computed step" in why.values()


def test_a_run_that_does_not_end_at_the_video_has_no_end_to_protect():
    first_half = ErrorControl(Course(levels(20, 3.0)[:11]), 2.0)
    state = first_half.computed(first_half.computed(State(), 0), 1, 0.01)
    for step in range(2, 3):
        state = first_half.reused(state, step)
    assert not first_half.why_computed(first_half.computed(state, 8, 0.01), 9)


def test_where_something_changes_it_is_computed():
    without, _, _ = run()
    changing = next(step for step in range(5, 25) if step not in without)
    ran, why, _ = run(computed={changing})
    assert changing in ran
    assert why[changing] == "something changes here"


def test_a_step_of_several_evaluations_costs_as_many():
    twice = (*(2,) * 29, 1)
    ran, _, state = run(evaluations=twice)
    assert state.evaluations == sum(twice[step] for step in ran)
    assert abs(state.evaluations - sum(twice) / 2) <= 2


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_large_errors_stop_the_reuse_whatever_speed_is_asked_for(shift):
    ran, _, _ = run(steps=8, shift=shift, target=4.0, hardness=8.0)
    assert len(ran) >= 7


def test_a_tolerance_means_the_same_at_any_number_of_steps():
    counts = [len(run(steps, tolerance=0.02)[0]) for steps in (30, 50, 100)]
    assert max(counts) - min(counts) <= 4


def test_the_first_error_of_a_held_video_says_nothing():
    controller = ErrorControl(Course(levels(30, 3.0)), 2.0)
    state = controller.computed(controller.computed(State(), 0), 1, error=100.0)
    assert state.hardness == control.UNKNOWN


def test_a_forecast_that_came_true_to_the_last_bit_is_no_error():
    controller = ErrorControl(Course(levels(30, 3.0)), 2.0)
    state = State()
    for step in range(4):
        state = controller.computed(state, step, 0.0 if step else None)
    assert 0 < state.hardness < 1


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_levels_of_other_models_are_those_of_equal_noise(level):
    sigma = level / (1 - level)
    assert math.isclose(flow_level(sigma, flow=False), level)
    assert flow_level(level, flow=True) == level
