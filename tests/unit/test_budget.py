"""The controller that is asked for a speed-up: how many steps it computes, and which."""

from itertools import pairwise

import pytest
import torch

from adacache_core import BudgetState, CacheConfig, MotionConfig, ScheduleState, auto
from adacache_core.engine import controller_for
from adacache_core.sampler import Sampler

N = 30


def computed_steps(target, change=lambda step: 0.1, steps=N, ends_at_zero=True, motion=None, **settings):
    """Which steps compute when the probe changes by `change(step)` per step."""
    config = CacheConfig(auto(target).codebook, target=target, **settings)
    state = controller_for(config, steps, ends_at_zero=ends_at_zero)
    computed = []
    for step in range(steps):
        if not state.decide(step).compute:
            continue
        if computed:
            sums = torch.tensor([change(step) * state.rate, 1.0])
            state.observe(step, {"probe": (sums, None if motion is None else motion(step))})
        state.computed(step)
        computed.append(step)
    return computed


@pytest.mark.parametrize("steps", [8, 20, 30, 50, 100])
@pytest.mark.parametrize("target", [1.1, 1.5, 2.0, 3.0, 4.0])
def test_a_video_that_changes_evenly_lands_on_the_target(steps, target):
    wanted = max(round(steps / target), 3)
    assert abs(len(computed_steps(target, steps=steps)) - wanted) <= 1


@pytest.mark.parametrize("target", [2.0, 2.8, 4.0])
def test_then_the_computed_steps_are_evenly_spread(target):
    gaps = [late - early for early, late in pairwise(computed_steps(target)[:-1])]
    assert max(gaps) - min(gaps) <= 1


def test_the_first_step_and_the_last_two_always_compute():
    for target in (1.5, 3.0, 4.4):
        assert {0, 28, 29} <= set(computed_steps(target))


def test_far_beyond_that_the_last_step_is_reused_like_any_other():
    """Where every computed step counts, it is worth more elsewhere."""
    assert computed_steps(5.0) == [0, 6, 12, 18, 24, 28]
    assert computed_steps(30.0) == [0, 28]
    assert computed_steps(30.0, ends_at_zero=False) == [0]


def test_a_little_is_skipped_late():
    """Early steps decide what the video becomes."""
    skipped = set(range(N)) - set(computed_steps(1.25))
    assert len(skipped) == 6
    assert N / 3 < min(skipped) < max(skipped) < N - 5


def test_where_the_video_changes_more_more_is_computed():
    stirring = computed_steps(4.0, lambda step: 5.0 if 12 <= step < 20 else 0.1)
    during = [sum(12 <= step < 20 for step in computed) for computed in (stirring, computed_steps(4.0))]
    assert during[0] > during[1]


@pytest.mark.parametrize(("change", "distance"), [(1e6, 4), (1e-6, 16)])
def test_a_change_halves_or_doubles_the_distance_at_most(change, distance):
    state = BudgetState(CacheConfig(auto(2).codebook, target=8.0), 240)
    for step, size in ((0, 1.0), (8, 1.0), (16, change)):
        if step:
            state.observe(step, {"probe": (torch.tensor([size * state.rate, 1.0]), None)})
        state.computed(step)
    assert state.rate == pytest.approx(distance, abs=1)


def test_where_every_second_step_is_skipped_in_one_stretch_it_ends_before_the_end():
    computed = computed_steps(1.45)
    skipped = sorted(set(range(N)) - set(computed))
    assert len(skipped) == 9
    assert skipped[-1] <= N - 2 - N // 10  # the last tenth of what may be reused is computed


def test_only_how_changes_compare_with_each_other_matters():
    def shape(step):
        return 0.1 + 0.01 * (step % 7)

    assert computed_steps(2.5, shape) == computed_steps(2.5, lambda step: 40 * shape(step))


def test_a_video_that_calms_down_is_cheaper_than_one_that_stirs_up():
    calming, even, stirring = (
        len(computed_steps(2.5, lambda step, trend=trend: 0.1 * trend**step)) for trend in (0.9, 1.0, 1.1)
    )
    assert calming < even < stirring
    assert stirring <= 1.25 * even
    assert calming >= 0.75 * even


def test_one_alarm_does_not_eat_the_budget():
    alarmed = computed_steps(3.0, lambda step: 100.0 if step == computed_steps(3.0)[2] else 0.1)
    assert len(alarmed) <= len(computed_steps(3.0)) + 1


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), 0.0])
def test_a_metric_that_says_nothing_changes_nothing(nonsense):
    broken = computed_steps(2.5, lambda step: nonsense if step == 9 else 0.1)
    assert broken == computed_steps(2.5)


def test_only_steps_between_start_and_end_are_counted_and_skipped():
    computed = computed_steps(1.5, start=0.4, end=0.9)
    assert set(range(12)) | set(range(27, 30)) <= set(computed)
    assert abs(len(computed) - 20) <= 1


@pytest.mark.parametrize(
    ("target", "settings", "unreachable"), [(10, {}, False), (15, {}, False), (30, {}, True), (2, {"start": 0.6}, True)]
)
def test_it_knows_what_it_cannot_reach(target, settings, unreachable):
    config = CacheConfig(auto(2).codebook, target=target, **settings)
    assert BudgetState(config, N).unreachable == unreachable


def test_moreg_spends_more_where_there_is_motion():
    def motion(step):
        return torch.tensor([[0.9 if step > 12 else 0.2, 0.5, 0.5]])

    with_it = computed_steps(3.0, motion=motion, moreg=MotionConfig(form="paper"))
    without = computed_steps(3.0)
    assert sum(12 < step < 24 for step in with_it) > sum(12 < step < 24 for step in without)


def speedup(target, evaluations, draws_noise, change=lambda step: 0.1):
    """Counted in evaluations, and the decisions by step; `evaluations` are the steps in the order of evaluation."""
    steps = max(evaluations) + 1
    sampler = Sampler((), None, draws_noise, evaluations=tuple(map(evaluations.count, range(steps))))
    state = BudgetState(CacheConfig(auto(2).codebook, target=target), steps, sampler=sampler)
    done: dict[int, set[bool]] = {}
    computed, last = 0, -1
    for step in evaluations:
        decision = state.decide(step)
        done.setdefault(step, set()).add(decision.compute)
        if decision.compute:
            if step > last >= 0:
                state.observe(step, {"probe": (torch.tensor([change(step) * state.rate, 1.0]), None)})
            last = max(last, step)
            state.computed(step)
            computed += 1
    return len(evaluations) / computed, done


ORDERS = {  # of the evaluations of 24 steps
    "euler": list(range(24)),
    "heun": [0, *(step for step in range(1, 24) for _ in range(2))],
    "dpm_2": [*(step for step in range(23) for _ in range(2)), 23],
    "heunpp2": [0, 1, 2, *(at for step in range(1, 22) for at in (step, step + 1, step + 2)), 22, 23, 23],
    "three stages": [step for step in range(24) for _ in range(3)],
}
CALMING, STIRRING = (lambda step: 0.1 * 0.8**step), (lambda step: 0.1 * 1.2**step)


@pytest.mark.parametrize("target", [1.3, 1.5, 2.0, 2.5, 3.0])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_target_is_counted_in_evaluations_and_those_of_a_step_are_done_alike(order, target):
    for change in (lambda step: 0.1, CALMING, STIRRING):
        reached, done = speedup(target, order, draws_noise=False, change=change)
        assert reached <= 1.1 * target
        assert all(len(each) == 1 for each in done.values())
    reached, _ = speedup(target, order, draws_noise=False)
    assert reached >= 0.9 * target


@pytest.mark.parametrize("draws_noise", [True, None])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_where_noise_is_drawn_or_may_be_the_target_is_never_exceeded(order, draws_noise):
    for target in (1.3, 1.5, 2.0, 2.5, 3.0, 5.0):
        for change in (lambda step: 0.1, CALMING, STIRRING):
            assert speedup(target, order, draws_noise, change)[0] <= target


def test_without_a_target_the_codebook_is_asked():
    assert type(controller_for(CacheConfig(auto(2).codebook), N)) is ScheduleState
