from math import inf, isnan

import pytest
from benchmark.made_up import record

from tools.benchmark.standing import ALL, best_within, duels, points


def point_of(records, **fields):
    (found,) = (
        point for point in points(records) if all(getattr(point, name) == value for name, value in fields.items())
    )
    return found


def test_a_point_is_the_mean_over_the_videos_of_its_class_and_says_how_far_they_spread():
    videos = [record("a", psnr=30.0, seed=1), record("a", psnr=34.0, seed=2)]
    point = point_of(videos, motion_class="slow")
    assert (point.psnr, point.videos) == (32.0, 2)
    assert point.spread == pytest.approx(2.828, abs=1e-3)


def test_one_video_has_no_spread():
    assert isnan(point_of([record("a")], motion_class="slow").spread)


def test_a_time_that_nobody_took_does_not_count():
    videos = [record("a", wall_ratio=0.4, seed=1), record("a", wall_ratio=None, seed=2)]
    assert point_of(videos, motion_class="slow").wall_ratio == 0.4
    assert isnan(point_of([record("a", wall_ratio=None)], motion_class="slow").wall_ratio)


def test_the_point_over_all_classes_counts_every_video_once():
    videos = [record("a", psnr=30.0), record("a", psnr=40.0, motion_class="busy"), record("a", psnr=35.0, seed=2)]
    assert point_of(videos, motion_class=ALL).psnr == 35.0


def test_samplers_steps_and_settings_are_never_mixed():
    apart = [record("a"), record("a", sampler="dpmpp_2m"), record("a", steps=50), record("a", setting="2")]
    assert [point.videos for point in points(apart)] == [1] * 8  # each in its class and in all


def test_the_plain_video_is_no_point():
    assert points([record("none")]) == []


def test_the_best_within_a_fraction_may_compute_exactly_that_much_and_no_more():
    curve = points([record("a", psnr=30.0), record("a", setting="2", psnr=40.0, computed_fraction=0.6)])
    assert best_within(curve, 0.5).psnr == 30.0
    assert best_within(curve, 0.6).psnr == 40.0
    assert best_within(curve, 0.4) is None


def test_a_duel_is_won_by_what_computes_no_more_and_is_closer():
    records = [
        record("peer", computed_fraction=0.5, psnr=30.0),
        record("AdaCache a", computed_fraction=0.5, psnr=31.0),
        record("AdaCache b", computed_fraction=0.51, psnr=50.0),
    ]
    assert [duel.margin for duel in duels(points(records))] == [1.0, 1.0]  # in its class and in all


def test_without_anything_of_ours_that_is_as_cheap_a_duel_is_lost_without_measure():
    records = [record("peer", computed_fraction=0.2), record("AdaCache")]
    assert {duel.margin for duel in duels(points(records))} == {-inf}


def test_a_peer_meets_only_its_own_class_sampler_and_number_of_steps():
    records = [record("peer"), record("AdaCache", steps=50, psnr=90.0), record("AdaCache", motion_class="busy")]
    in_class = [duel for duel in duels(points(records)) if duel.peer.motion_class == "slow"]
    assert [duel.ours for duel in in_class] == [None]


def test_who_computed_everything_is_no_opponent():
    assert duels(points([record("peer", computed_fraction=1.0, psnr=100.0), record("AdaCache")])) == []
