"""A table made for one number of steps, at another: exact where there is something to be exact about."""

import math
import random
from itertools import pairwise

import pytest

from adacache_core import FAST_30, FAST_100, SLOW_30, Codebook
from adacache_core.decide.scaling import scale_window

STEPS = [1, 2, 8, 10, 20, 30, 31, 50, 75, 100, 101, 150, 500, 1000]


def test_at_thirty_and_a_hundred_steps_the_published_tables_come_out():
    assert FAST_30.for_steps(100) == FAST_100
    assert FAST_100.for_steps(30) == FAST_30


@pytest.mark.parametrize("table", [FAST_30, SLOW_30, FAST_100])
def test_a_table_at_its_own_number_of_steps_is_left_alone(table):
    assert table.for_steps(table.steps) == table


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("table", [FAST_30, SLOW_30, FAST_100], ids=lambda table: f"{table.name} {table.steps}")
def test_a_scaled_table_keeps_its_order(table, steps):
    scaled = table.for_steps(steps)
    rates = [rate for _, rate in scaled.entries]
    assert len(scaled.entries) == len(table.entries)
    assert all(threshold > 0 for threshold, _ in scaled.entries)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= 1
    assert (scaled.steps, scaled.name) == (steps, table.name)


def test_more_steps_mean_lower_thresholds_and_higher_rates():
    tables = [FAST_30.for_steps(steps).entries[:-1] for steps in STEPS]
    for fewer, more in pairwise(tables):
        for (threshold, rate), (later_threshold, later_rate) in zip(fewer, more, strict=True):
            assert later_threshold < threshold
            assert later_rate >= rate


def test_the_slow_table_at_a_hundred_steps_follows_the_law_of_the_fast_one():
    scaled = SLOW_30.for_steps(100)
    assert [threshold for threshold, _ in scaled.entries] == [threshold for threshold, _ in FAST_100.entries]
    assert [rate for _, rate in scaled.entries] == [6, 4, 2, 2, 2, 2]


def test_between_two_published_thresholds_a_threshold_stays_between_them():
    table = Codebook(((0.08, 6), (0.1, 5), (0.16, 4), (1.0, 1)))
    low, middle, high, _ = (threshold for threshold, _ in table.for_steps(100).entries)
    assert (low, high) == (0.03, 0.05)
    assert low < middle < high


def test_a_single_entry_and_a_threshold_of_zero_scale():
    assert len(Codebook(((0.0, 4),)).for_steps(100).entries) == 1
    assert Codebook(((0.0, 4), (0.5, 2))).for_steps(50).entries[0][0] == 0.0


def test_any_table_can_be_scaled_to_any_run():
    """Two thresholds that lie too close to be told apart afterwards become one."""
    dice = random.Random(0)
    for _ in range(300):
        thresholds = sorted({dice.uniform(0, dice.choice([1e-6, 0.1, 2])) for _ in range(dice.choice([1, 2, 6, 200]))})
        rates = sorted((dice.randint(1, 12) for _ in thresholds), reverse=True)
        table = Codebook(tuple(zip(thresholds, rates, strict=True)), dice.choice(STEPS))
        scaled = [rate for _, rate in table.for_steps(dice.choice(STEPS)).entries]
        assert scaled == sorted(scaled, reverse=True)


def test_ten_thousand_entries_scale():
    table = Codebook(tuple((i / 10_000, 10_001 - i) for i in range(1, 10_001)))
    assert len(table.for_steps(100).entries) == 10_000


@pytest.mark.parametrize("steps", range(1, 201))
def test_moregs_window_lies_within_the_run(steps):
    first, last = scale_window(steps)
    assert 1 <= first <= last <= steps


def test_rates_are_multiplied_and_never_fall_below_one():
    assert [rate for _, rate in FAST_30.with_rates_times(1.5).entries] == [9, 8, 6, 4, 3, 2]
    assert [rate for _, rate in FAST_30.with_rates_times(0.1).entries] == [1, 1, 1, 1, 1, 1]
    assert FAST_30.with_rates_times(1) == FAST_30


def test_numbers_that_no_table_has_stay_numbers():
    book = Codebook(((0.1, 2**53), (1e308, 2), (1.7e308, 1)), 30)
    assert book.with_rates_times(10.0).entries[0] == (0.1, 2**53)
    for steps in (1, 10_000):
        assert math.isfinite(book.for_steps(steps).entries[-1][0])
