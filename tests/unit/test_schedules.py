"""Schedules as data: read back, stretched to other step counts, averaged; and replayed."""

import json

import pytest

from adacache_core import AdaCacheError, Fixed, Schedule, average
from adacache_core.decide.base import Course

EVERY_THIRD = Schedule(tuple(step % 3 == 0 for step in range(30)), "Wan auto")


def steps_of(schedule):
    return [step for step, computed in enumerate(schedule.computed) if computed]


def made_of(*steps, of=30):
    return Schedule(tuple(step in steps for step in range(of)))


def test_what_is_written_is_read_back():
    assert Schedule.from_json(EVERY_THIRD.to_json()) == EVERY_THIRD
    assert json.loads(EVERY_THIRD.to_json())["format"] == "adacache.schedule"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a schedule"),
        ('{"format": "adacache.report", "version": 1}', "not a schedule"),
        ('{"format": "adacache.schedule", "version": 2, "computed": [true]}', "version 2"),
        ('{"format": "adacache.schedule", "version": 1}', "must be a list"),
        ('{"format": "adacache.schedule", "version": 1, "computed": [1, 0]}', "must be a list"),
        ('{"format": "adacache.schedule", "version": 1, "computed": [true], "source": 1}', "'source' must be a text"),
        ('{"format": "adacache.schedule", "version": %s}' % ("9" * 5000), "not JSON"),
        ('{"format": "adacache.schedule", "version": 1, "computed": []}', "at least one step"),
        ('{"format": "adacache.schedule", "version": 1, "computed": [false, true]}', "first step"),
    ],
)
def test_what_is_no_schedule_is_refused_with_a_reason(text, complaint):
    with pytest.raises(AdaCacheError, match=complaint):
        Schedule.from_json(text)


def test_the_same_number_of_steps_is_the_same_schedule():
    assert EVERY_THIRD.for_steps(30) is EVERY_THIRD


@pytest.mark.parametrize("steps", [1, 5, 10, 15, 29, 31, 50, 60, 100, 1000])
def test_another_number_of_steps_has_the_same_share(steps):
    assert abs(sum(EVERY_THIRD.for_steps(steps).computed) - steps / 3) <= 1


def test_dense_parts_stay_where_they_are():
    dense_end = made_of(0, 10, *range(20, 30))
    longer = dense_end.for_steps(60)
    assert sum(longer.computed) == 24
    assert all(longer.computed[42:])
    assert sum(longer.computed[:40]) == 4


def test_the_average_of_one_is_itself():
    for schedule in (EVERY_THIRD, made_of(0, 1, 5, 28, 29), made_of(*range(30))):
        assert average([schedule]).computed == schedule.computed


def test_the_average_has_the_mean_number_of_steps_between_those_of_its_parts():
    merged = average([made_of(0, 4, 8, 12, 28, 29), made_of(0, 6, 10, 14, 20, 24, 28, 29)])
    assert len(steps_of(merged)) == 7
    assert {0, 28, 29} <= set(steps_of(merged))


def test_runs_of_different_lengths_are_averaged_on_the_longest():
    merged = average([EVERY_THIRD, EVERY_THIRD.for_steps(60)])
    assert len(merged.computed) == 60
    assert abs(sum(merged.computed) - 20) <= 1


def test_the_average_names_its_sources_once():
    assert average([EVERY_THIRD, EVERY_THIRD, made_of(0)]).source == "Wan auto"


def replayed(schedule, steps=30, evaluations=1, always=None):
    controller = Fixed(schedule, at_output=False).controller(Course(steps, always=always or {}))
    state, ran = controller.begin(), []
    for step in range(steps):
        for evaluation in range(evaluations):
            if controller.decide(state, step).compute:
                state = controller.computed(state, step)
                ran.append((step, evaluation))
        assert not controller.measures(state, step)
    return ran


def test_a_replay_computes_the_steps_of_the_schedule_and_measures_nothing():
    assert [step for step, _ in replayed(EVERY_THIRD)] == steps_of(EVERY_THIRD)
    assert [step for step, _ in replayed(EVERY_THIRD, 50)] == steps_of(EVERY_THIRD.for_steps(50))


def test_steps_that_are_always_computed_are_so_in_a_replay_too():
    ran = [step for step, _ in replayed(EVERY_THIRD, always=dict.fromkeys(range(15), "so"))]
    assert ran == [*range(15), *range(15, 30, 3)]


def test_all_evaluations_of_a_step_are_computed_or_reused_together():
    ran = replayed(made_of(0, 3, 4, of=8), steps=8, evaluations=2)
    assert ran == [(step, evaluation) for step in (0, 3, 4) for evaluation in (0, 1)]
