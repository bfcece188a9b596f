"""The error controller, on noise levels alone: errors are made up."""

import math
from itertools import pairwise

import pytest

from adacache_core.decide import error_control
from adacache_core.decide import target as target_module
from adacache_core.decide.base import Course
from adacache_core.decide.error_control import Found
from adacache_core.decide.levels import flow_level, log_snr, usual_error
from adacache_core.decide.quality import QualityController
from adacache_core.decide.target import GIVEN_LEAST, GIVEN_MOST, GUARD, TargetController


def levels(steps, shift):
    times = [1 - step / steps for step in range(steps + 1)]
    return tuple(shift * t / (1 + (shift - 1) * t) for t in times)


def aiming_at(target, levels, **course):
    return TargetController(Course.along(levels, **course), target)


def within(deviation, levels, **course):
    return QualityController(Course.along(levels, **course), deviation)


def run(steps=30, shift=3.0, target=2.0, hardness=1.0, wrong=None, **course):
    """The computed steps of a video whose errors are the usual ones times `hardness`."""
    controller = (aiming_at if wrong is None else within)(wrong or target, levels(steps, shift), **course)
    state, ran, why = controller.begin(), [], {}
    for step in range(steps):
        decision = controller.decide(state, step)
        why[step] = decision.reason
        if decision.compute:
            state = controller.computed(state, step, found(controller, state, step, hardness))
            ran.append(step)
    return ran, why, state


def found(controller, state, step, hardness):
    """At this step, of a forecast from the last computed one, if there was one."""
    if state.last is None:
        return Found()
    reach = controller.log_snrs[step] - controller.log_snrs[state.last]
    return Found(hardness * usual_error(controller.course.levels[step]) * reach)


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0, 12.0])
@pytest.mark.parametrize(
    ("steps", "target"), [(20, 1.3), (20, 2.0), (30, 2.0), (30, 3.0), (50, 2.0), (50, 3.0), (100, 4.0)]
)
def test_a_usual_video_comes_to_the_target(steps, shift, target):
    ran, _, state = run(steps, shift, target)
    assert state.evaluations == len(ran)
    assert abs(len(ran) - steps / target) <= 2


def test_beyond_the_guard_more_is_computed_than_asked_for():
    ran, _, state = run(steps=20, target=5.0)
    assert len(ran) > 20 / 5 + 1
    assert state.allowed == aiming_at(5.0, levels(20, 3.0)).begin().allowed == GUARD


def test_a_target_of_one_computes_every_step():
    assert run(target=1.0)[0] == list(range(30))


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_a_harder_video_gets_more_steps_but_none_much_more_than_its_share(shift, monkeypatch):
    monkeypatch.setattr(target_module, "GUARD", math.inf)
    counts = [len(run(shift=shift, hardness=hardness)[0]) for hardness in (0.1, 0.4, 0.7, 1.0, 1.6, 2.5, 10.0)]
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] >= 3
    assert 15 * GIVEN_LEAST - 1 <= counts[0] < counts[-1] <= 15 * GIVEN_MOST + 1


def test_the_guard_goes_before_the_share(monkeypatch):
    monkeypatch.setattr(target_module, "GUARD", 1e-4)
    assert len(run(hardness=10.0)[0]) > 15 * GIVEN_MOST + 1


def test_the_first_step_and_the_last_ones_are_computed_and_no_stretch_is_too_long():
    ran, why, _ = run(steps=50, target=8.0, hardness=0.01)
    assert ran[0] == 0
    assert ran[-2:] == [48, 49]
    assert [why[step] for step in (0, 48, 49)] == ["first step", "last steps", "last steps"]
    assert max(later - earlier for earlier, later in pairwise(ran)) == 11  # beyond a fifth of 50
    assert "far from the last computed step" in why.values()


def test_a_run_that_does_not_end_at_the_video_has_no_end_to_protect():
    for sigmas, why in ((levels(20, 3.0)[:11], "below tolerance"), (levels(10, 3.0), "last steps")):
        controller = within(GUARD, sigmas)
        state = controller.computed(controller.computed(controller.begin(), 0), 8, Found(0.01))
        assert controller.decide(state, 9).reason == why


@pytest.mark.parametrize(("guidance", "begins", "early"), [(5.0, 0, 3), (7.0, 0, 3), (4.9, 0, 1), (7.0, 10, 1)])
def test_with_strong_guidance_the_first_steps_from_noise_are_computed(guidance, begins, early):
    controller = aiming_at(3.0, levels(30, 5.0)[begins:], guidance=guidance)
    state = controller.begin()
    why = []
    for step in range(5):
        decision = controller.decide(state, step)
        why.append(decision.reason)
        if decision.compute:
            state = controller.computed(state, step)
    assert why[0] == "first step"
    assert [reason == "first steps, strong guidance" for reason in why[1:]] == [step < early for step in range(1, 5)]


def test_where_something_changes_it_is_computed():
    without, _, _ = run()
    changing = next(step for step in range(5, 25) if step not in without)
    ran, why, _ = run(always={changing: "a conditioning begins or ends"})
    assert changing in ran
    assert why[changing] == "a conditioning begins or ends"


@pytest.mark.parametrize(
    ("target", "guard", "sentence"),
    [
        (2.0, math.inf, ""),
        (2.0, 1e-9, "2x would change this video visibly, so hardly any step is skipped"),
        (2.0, 0.0, "2x would change this video visibly, so hardly any step is skipped"),
        (25.0, math.inf, "25x cannot be reached in 30 steps: too many are always computed"),
        (25.0, 1e-9, "25x cannot be reached in 30 steps: too many are always computed"),
        (1.0, math.inf, ""),
        (None, 1e-9, ""),
    ],
)
def test_what_differs_from_the_target_is_said(target, guard, sentence, monkeypatch):
    monkeypatch.setattr(target_module, "GUARD", guard)
    controller = aiming_at(target, levels(30, 3.0)) if target else within(0.02, levels(30, 3.0))
    assert controller.what_differs == sentence


@pytest.mark.parametrize("target", [1.5, 2.0, 2.5])
def test_the_speedup_that_is_expected_is_that_of_a_usual_video(target):
    controller = aiming_at(target, levels(30, 3.0))
    expected = 30 / len(run(target=target)[0])
    assert controller.speedup == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("steps", "computed", "never"),
    [(3, {}, True), (4, {}, True), (5, {}, False), (5, {2: "so"}, False), (5, {1: "so", 2: "so"}, True)],
)
def test_where_every_step_is_computed_in_any_case_it_is_known_before_the_run(steps, computed, never):
    assert aiming_at(2.0, levels(steps, 3.0), always=computed).never_skips == never


def test_a_step_of_several_evaluations_costs_as_many():
    twice = (*(2,) * 29, 1)
    ran, _, state = run(evaluations=twice)
    assert state.evaluations == sum(twice[step] for step in ran)
    assert abs(state.evaluations - sum(twice) / 2) <= 2


@pytest.mark.parametrize("shift", [1.0, 5.0, 12.0])
def test_large_errors_stop_the_reuse_whatever_speed_is_asked_for(shift):
    ran, _, _ = run(steps=8, shift=shift, target=4.0, hardness=8.0)
    assert len(ran) >= 6


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("hardness", [0.5, 1.0])
def test_no_more_is_wrong_than_may_be(shift, hardness):
    for wrong in (1e-2, 1e-3, 1e-4):
        ran, _, state = run(50, shift, hardness=hardness, wrong=wrong)
        assert state.shown <= 1.25 * wrong
        assert len(ran) < 50


@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_a_video_that_was_harder_than_it_looked_is_not_computed_in_full_to_no_avail(shift):
    for wrong in (1e-2, 1e-3):
        ran, _, state = run(50, shift, hardness=2.0, wrong=wrong)
        assert wrong < state.shown < 8 * wrong
        assert len(ran) < 30


def test_the_less_may_be_wrong_and_the_harder_the_video_the_more_is_computed():
    counts = [[len(run(50, hardness=hard, wrong=wrong)[0]) for hard in (0.5, 1, 2)] for wrong in (1e-2, 1e-3, 1e-4)]
    assert all(list(each) == sorted(each) and each[0] < each[-1] for each in (*counts, *zip(*counts, strict=True)))


def test_a_first_sampler_leaves_some_of_what_may_be_wrong_to_the_second():
    every, before = levels(40, 3.0), None
    for part in (every[:21], every[20:]):
        controller = within(1e-3, part)
        state = controller.begin(before)
        for step in range(20):
            if controller.decide(state, step).compute:
                state = controller.computed(state, step, found(controller, state, step, 1.0))
        before = state
        assert 0 < state.shown <= 1e-3
    assert state.evaluations < 20


@pytest.mark.parametrize("hardness", [0.5, 1.0, 2.0])
def test_what_another_quality_would_take_is_what_it_takes(hardness):
    controller = aiming_at(2.0, levels(50, 3.0))
    _, _, state = run(50, 3.0, 2.0, hardness)
    for wrong in (1e-2, 1e-3, 1e-4):
        assert abs(controller.would_take(state, wrong) - len(run(50, 3.0, hardness=hardness, wrong=wrong)[0])) <= 4


def controller_of(steps=30, shift=3.0):
    return aiming_at(2.0, levels(steps, shift))


def hardness_after(controller, errors):
    """Of a run of which these steps are computed, with errors so many times the usual ones."""
    state = controller.computed(controller.begin(), 0)
    for step, hardness in errors.items():
        state = controller.computed(state, step, found(controller, state, step, hardness))
    return state.hardness


def test_the_first_error_of_a_held_video_says_nothing():
    controller = controller_of(shift=1.0)
    assert hardness_after(controller, {10: 100.0}) == 1.0
    assert hardness_after(controller, {10: 1.0, 12: 100.0}) > 10


def test_errors_near_pure_noise_say_nothing_unless_they_are_alarming():
    controller = controller_of(shift=8.0)
    assert controller.course.levels[8] > error_control.TELLING > controller.course.levels[25]
    assert hardness_after(controller, {2: 1.0, 4: 0.1, 8: 1.5}) == 1.0
    assert hardness_after(controller, {2: 1.0, 4: 0.1, 8: 100.0}) > 10
    assert hardness_after(controller, {2: 1.0, 25: 0.1}) < 0.5


def test_newer_errors_count_more_than_older_ones():
    controller = controller_of(shift=1.0)
    rising = hardness_after(controller, {5: 1.0, 10: 0.5, 15: 0.5, 20: 2.0})
    falling = hardness_after(controller, {5: 1.0, 10: 2.0, 15: 0.5, 20: 0.5})
    assert rising > falling


def test_a_forecast_that_came_true_to_the_last_bit_is_no_error():
    assert 0 < hardness_after(controller_of(shift=1.0), {5: 1.0, 10: 0.0, 15: 0.0}) < 1


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_the_longer_a_stretch_the_more_it_costs(shift):
    controller = controller_of(shift=shift)
    for costs in controller._costs[:20]:
        assert list(costs) == sorted(costs)
        assert 0 == costs[0] < costs[-1]


def test_levels_that_are_equal_are_no_reason_to_fail():
    controller = aiming_at(2.0, [1.0] * 4 + [level / 12 for level in range(11, -1, -1)])
    state = controller.computed(controller.begin(), 0)
    assert not any(controller.decide(state, step).compute for step in (1, 2))  # they are no way to go
    assert controller.speedup > 1
    again = controller.computed(state, 1, Found(0.5))  # a schedule may want it
    assert controller.computed(again, 2, Found(0.5)).hardness == 1.0


def test_places_go_from_noise_to_video():
    places = list(map(log_snr, levels(30, 8.0)))
    assert places == sorted(places)
    assert log_snr(0.5) == 0
    assert log_snr(0.1) == pytest.approx(-log_snr(0.9))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
def test_levels_of_other_models_are_those_of_equal_noise(level):
    sigma = level / (1 - level)
    assert math.isclose(flow_level(sigma, flow=False), level)
    assert flow_level(level, flow=True) == level


@pytest.mark.parametrize("hardness", [0.4, 1.0, 2.5])
def test_a_second_sampler_has_what_the_first_left_of_the_share_of_both(hardness, monkeypatch):
    monkeypatch.setattr(target_module, "GUARD", math.inf)
    every = levels(40, 5.0)
    spent, alone, before = [], [], None
    for part in (every[:21], every[20:]):
        controller = aiming_at(2.0, part)
        for counts, state in ((spent, controller.begin(before)), (alone, controller.begin())):
            for step in range(20):
                if controller.decide(state, step).compute:
                    state = controller.computed(state, step, found(controller, state, step, hardness))
            counts.append(state.evaluations)
            if counts is spent:
                after = controller.end(state)
        before = after
    assert before is None  # the video is finished
    assert abs(sum(spent) - 20) <= abs(sum(alone) - 20)
    assert abs(sum(spent) - 20) <= 4


def test_a_second_sampler_knows_how_hard_the_video_is():
    first = aiming_at(2.0, levels(20, 3.0)[:11])
    state = first.begin()
    for step in range(0, 10, 2):
        state = first.computed(state, step, found(first, state, step, 3.0))
    second = aiming_at(2.0, levels(20, 3.0)[10:])
    assert second.begin(first.end(state)).hardness == state.hardness > 2
    assert second.begin().hardness == 1
