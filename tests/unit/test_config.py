"""Settings are what they say, and say what is wrong with what they cannot be."""

import math

import pytest
import torch

from adacache_core import (
    FAST_30,
    AdaCacheError,
    CacheConfig,
    Codebook,
    Fixed,
    MotionConfig,
    Off,
    Quality,
    Schedule,
    Target,
    Watch,
)

CORRECT = "0.08:6, 0.16:5"


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ((), "at least one entry"),
        (((0.1, 4), (0.1, 3)), "entry 2 has 0.1 after 0.1"),
        (((0.1, 4), (0.2, 3), (0.15, 2)), "entry 3 has 0.15 after 0.2"),
        (((0.1, 4), (0.2, 0)), r"entry 2 \(0.2\) has the rate 0"),
        (((0.1, -2),), r"entry 1 \(0.1\) has the rate -2"),
        (((0.1, 2.5),), r"entry 1 \(0.1\) has the rate 2.5"),
        (((0.1, True),), r"entry 1 \(0.1\) has the rate True"),
        (((0.1, math.inf),), r"entry 1 \(0.1\) has the rate inf"),
        (((0.1, math.nan),), r"entry 1 \(0.1\) has the rate nan"),
        (((0.1, "3"),), r"entry 1 \(0.1\) has the rate '3'"),
        (((0.1, 4), (math.nan, 3)), "entry 2 has the threshold nan"),
        (((0.1, 4), (math.inf, 3)), "entry 2 has the threshold inf"),
        (((-0.1, 4),), "entry 1 has the threshold -0.1"),
    ],
)
def test_a_wrong_entry_is_named_beside_a_correct_codebook(entries, complaint):
    with pytest.raises(AdaCacheError, match=complaint) as caught:
        Codebook(entries)
    assert CORRECT in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        (" {} ", "empty"),
        ("0.1", "entry 1 at position 1, '0.1', is not"),
        ("0.08:6, bad", "entry 2 at position 9, 'bad', is not"),
        ("  {0.08:6,0.16;5}", "entry 2 at position 11, '0.16;5', is not"),
        ("0.08:6 0.16:5", "entry 1 at position 1"),
        ("0.08:6,, 0.16:5", "entry 2 at position 8, '', is not"),
        ("0.1:2:3", "entry 1 at position 1"),
        ("a:b", "entry 1 at position 1"),
        ("0.08:6,  0.16:0", r"entry 2 at position 10 \(0.16\) has the rate 0"),
        ("0.08:6, 0.16:2.5", r"entry 2 at position 9 \(0.16\) has the rate 2.5"),
        ("0.08:6, nan:2", "entry 2 at position 9 has the threshold nan"),
        ("0.08:inf", r"entry 1 at position 1 \(0.08\) has the rate inf"),
        ("0.08:6, 0.07:5", "entry 2 at position 9 has 0.07 after 0.08"),
    ],
)
def test_wrong_text_is_shown_with_its_position_beside_a_correct_codebook(text, complaint):
    with pytest.raises(AdaCacheError, match=complaint) as caught:
        Codebook.parse(text)
    assert CORRECT in str(caught.value)


@pytest.mark.parametrize("text", ["{0.08: 6, 0.16: 5}", " 0.08:6,\n0.16:5.0, ", "8e-2:6, .16:5"])
def test_the_papers_notation_is_read_however_it_is_laid_out(text):
    assert Codebook.parse(text).entries == ((0.08, 6), (0.16, 5))


@pytest.mark.parametrize(
    "book",
    [
        FAST_30,
        Codebook(((0.0, 6),)),
        Codebook(((0.12345678901, 3), (0.12345678902, 2)), 50, "close"),
        Codebook(tuple((i / 3e5, 10_001 - i) for i in range(1, 10_001)), 100, "long"),
    ],
    ids=lambda book: book.name,
)
def test_a_codebook_survives_being_written_and_read(book):
    assert Codebook.parse(str(book), book.steps, book.name) == book


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_codebook_is_made_for_a_whole_number_of_steps(steps):
    with pytest.raises(AdaCacheError, match="at least 1 sampler step"):
        Codebook(((0.1, 2),), steps)


def test_the_first_threshold_above_the_metric_gives_the_rate():
    book = Codebook(((0.1, 4), (0.2, 3), (0.3, 2)))
    assert [book.rate_for(metric) for metric in (0.0, 0.0999, 0.1, 0.1999, 0.2, 5.0)] == [4, 4, 3, 3, 2, 2]


def test_the_last_threshold_is_never_compared():
    assert Codebook(((0.1, 4),)).rate_for(1e9) == 4


def test_a_tensor_is_compared_in_its_own_dtype():
    at_the_threshold = torch.tensor(0.08)  # as a Python number this is 0.0799999982
    assert float(at_the_threshold) < 0.08
    assert FAST_30.rate_for(at_the_threshold) == 5


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf, torch.tensor(math.nan), torch.tensor(math.inf)])
def test_a_metric_that_is_not_finite_takes_the_smallest_rate_wherever_it_stands(metric):
    assert Codebook(((0.1, 4), (0.2, 2), (0.3, 3))).rate_for(metric) == 2


def test_ten_thousand_entries_are_looked_up_like_six():
    book = Codebook(tuple((i / 10_000, 10_001 - i) for i in range(1, 10_001)))
    assert [book.rate_for(metric) for metric in (0.0, 0.50005, 0.9999, 2.0)] == [10_000, 5_000, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": -1},
        {"strength": math.nan},
        {"window": (0.5, 0.2)},
        {"window": (0.0, 1.1)},
        {"window": (math.nan, 1.0)},
        {"strides": ()},
        {"strides": (0,)},
        {"strides": (1.5,)},
        {"strides": (math.inf,)},
        {"pivot": 0},
        {"divisor": -1},
        {"power": math.nan},
        {"gradient": math.inf},
        {"form": "bold"},
    ],
    ids=str,
)
def test_moreg_refuses_what_it_cannot_calculate_with(wrong):
    with pytest.raises(AdaCacheError, match=f"{next(iter(wrong))}"):
        MotionConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": -0.1},
        {"end": 1.1},
        {"end": math.nan},
        {"probe_position": 2},
        {"probe_stride": 0},
        {"probe_stride": 1.5},
    ],
    ids=str,
)
def test_the_cache_refuses_settings_out_of_range(wrong):
    with pytest.raises(AdaCacheError, match=f"{next(iter(wrong))}"):
        CacheConfig(FAST_30, **wrong)


@pytest.mark.parametrize(
    "config",
    [
        CacheConfig(Codebook(((0.1, 1), (0.2, 1)))),
        CacheConfig(Off()),
        CacheConfig(FAST_30, start=0.5, end=0.5),
        CacheConfig(FAST_30, start=0.7, end=0.5),
    ],
)
def test_settings_know_that_they_skip_nothing(config):
    assert config.never_skips


@pytest.mark.parametrize("policy", [Target(1.0), Fixed(Schedule((True, True))), Fixed(Schedule((True,)), False), Off()])
def test_policies_know_that_they_skip_nothing(policy):
    assert CacheConfig(policy).never_skips


@pytest.mark.parametrize("policy", [FAST_30, Target(1.1), Quality(20.0), Fixed(Schedule((True, False))), Watch()])
def test_the_others_skip_or_measure(policy):
    assert not CacheConfig(policy).never_skips


def test_only_watching_is_not_ended_by_start_and_end():
    closed = {"start": 0.5, "end": 0.5}
    policies = (FAST_30, Target(2.0), Quality(20.0), Watch())
    assert [CacheConfig(policy, **closed).never_skips for policy in policies] == [True, True, True, False]


@pytest.mark.parametrize("speedup", [0.9, math.nan, math.inf])
def test_a_target_is_a_speedup(speedup):
    with pytest.raises(AdaCacheError, match="at least 1"):
        Target(speedup)


@pytest.mark.parametrize("closeness", [math.nan, math.inf])
def test_a_quality_is_a_number_of_decibels(closeness):
    with pytest.raises(AdaCacheError, match="number of dB"):
        Quality(closeness)


def test_the_published_settings_skip():
    assert not CacheConfig(FAST_30).never_skips


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.6, 0.4)])
def test_where_start_is_not_before_end_every_step_is_outside(start, end):
    assert list(CacheConfig(FAST_30, start=start, end=end).outside(30)) == list(range(30))


def test_a_step_is_inside_from_start_on_and_outside_from_end_on():
    assert list(CacheConfig(FAST_30, start=0.5, end=0.8).outside(30)) == [*range(15), *range(24, 30)]
    assert CacheConfig(FAST_30).outside(30) == {}
