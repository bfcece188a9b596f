from math import inf, isnan, sqrt

import numpy as np
import pytest
from benchmark.made_up import plain, record, videos

from research.benchmark import paired
from research.benchmark.paired import OURS, Choice, Place

HERE = Place("demo", "euler 30, shift 3, cfg 4")


def duel_of(*records):
    """The only duel of these records."""
    (found,) = paired.duels(paired.places(records))
    return found


def dial(*works, **fields):
    """A record of ours for each setting, which is named after its work."""
    return [record(OURS, setting=str(work), work=work, **fields) for work in works]


# --- Place, choice, video


def test_a_broken_video_is_left_out_for_everybody_in_its_place_alone_and_told():
    records = [plain(seed=1, setting="broken"), plain(seed=2), *videos("a", 30.0, 40.0)]
    records += videos("a", 20.0, model="clips")
    measured = paired.places(records)
    assert paired.broken(records) == {(HERE, ("slow", 1))}
    assert [one.psnr for one in measured[HERE][Choice("a", "1")].values()] == [40.0]
    assert len(measured[Place("clips", HERE.condition)][Choice("a", "1")]) == 1


def test_the_plain_video_is_nobodys():
    assert paired.places([plain()]) == {}


def test_a_point_has_the_means_of_its_videos_the_worst_of_them_and_the_most_memory():
    records = [record("a", psnr=30.0, worst_frame=20.0, lpips=0.1, bytes=5, seed=1, time=0.4)]
    records += [record("a", psnr=34.0, worst_frame=28.0, lpips=0.3, bytes=7, seed=2, time=None)]
    (point,) = paired.points(paired.places(records))[HERE]
    assert (point.place, point.choice, point.videos) == (HERE, Choice("a", "1"), 2)
    assert (point.psnr, point.worst_video, point.worst_frame, point.bytes) == (32.0, 30.0, 20.0, 7)
    assert (point.lpips, point.time) == (pytest.approx(0.2), 0.4)


def test_a_time_that_nobody_took_is_none():
    assert isnan(paired.point(HERE, Choice("a", "1"), [record("a", time=None)]).time)


# --- One setting against one setting


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(0.5, "0.5"), (0.79, "0.5"), (0.8, "0.8"), (0.7965, "0.8"), (0.7955, "0.5"), (0.99, "0.8"), (0.3, "0.3")],
)
def test_a_rival_meets_the_position_of_most_work_that_is_not_above_its_own_by_half_a_percent(theirs, ours):
    duel = duel_of(record("peer", work=theirs), *dial(0.3, 0.8, 0.5))
    assert duel.ours.choice == Choice(OURS, ours)


def test_without_a_position_that_does_as_little_there_is_no_match():
    duel = duel_of(record("peer", work=0.2), *dial(0.3, 0.8))
    assert (duel.ours, duel.differences, duel.outcome) == (None, {}, "no match")
    assert isnan(duel.won)
    assert duel.theirs.work == 0.2


def test_neither_our_variants_nor_who_leaves_out_nothing_is_a_rival_and_only_the_preset_is_the_dial():
    records = [*dial(0.3), record("AdaCache auto + MoReg", work=0.5), record("careful", work=1.0)]
    assert paired.duels(paired.places(records)) == []
    duel = duel_of(*records, record("AdaCache fast", work=0.5))
    assert (duel.theirs.choice.method, duel.ours.choice) == ("AdaCache fast", Choice(OURS, "0.3"))


def test_who_shares_no_video_with_the_dial_has_no_duel():
    for other in ({"seed": 2}, {"motion_class": "fast"}, {"condition": "lcm 12"}, {"model": "clips"}):
        assert paired.duels(paired.places([record("peer"), *dial(0.3, **other)])) == []


def test_all_of_a_duel_is_over_the_videos_that_both_made():
    theirs = [record("peer", seed=1, work=0.4, psnr=20.0), record("peer", seed=2, work=0.9, psnr=40.0)]
    theirs += [record("peer", seed=4, work=0.4, psnr=22.0, worst_frame=9.0)]
    ours = [*dial(0.4, seed=1, psnr=23.0), *dial(0.4, seed=3, psnr=10.0)]
    ours += dial(0.4, seed=4, psnr=21.0, worst_frame=8.0)
    duel = duel_of(*theirs, *ours)
    assert (duel.theirs.videos, duel.theirs.work, duel.theirs.worst_video, duel.theirs.worst_frame) == (2, 0.4, 20, 9)
    assert (duel.ours.videos, duel.ours.work, duel.ours.worst_video, duel.ours.worst_frame) == (2, 0.4, 21, 8)
    assert (duel.differences["psnr"].mean, duel.won) == (1.0, 0.5)


def test_a_position_that_is_still_being_measured_is_not_chosen():
    records = [*videos("peer", 30.0, 30.0), *dial(0.4, seed=1), *dial(0.4, seed=2), *dial(0.5, seed=1)]
    assert duel_of(*records).ours.choice.setting == "0.4"


def test_a_difference_is_the_larger_the_closer_ours_is_by_every_measure():
    theirs = {"psnr": 30.0, "worst_frame": 20.0, "ssim": 0.9, "lpips": 0.3, "motion_kept": 1.2}
    ours = {"psnr": 31.0, "worst_frame": 22.0, "ssim": 0.95, "lpips": 0.2, "motion_kept": 0.9}
    found = duel_of(record("peer", **theirs), *dial(0.5, **ours)).differences
    expected = {"psnr": 1.0, "worst_frame": 2.0, "ssim": 0.05, "lpips": 0.1, "motion_kept": 0.1}
    assert {name: difference.mean for name, difference in found.items()} == pytest.approx(expected)


def test_a_draw_is_half_a_video():
    records = videos("peer", 50.0, 50.0, 40.0, 50.0)
    records += videos(OURS, 50.0, 50.0, 41.0, 49.0, setting="2x")
    assert duel_of(*records).won == 0.5
    assert duel_of(*records[:3], *records[4:7]).won == pytest.approx(2 / 3)


def scattered(lead, number=16):
    """Videos of a rival and of ours; ours are closer by about `lead` dB, with a standard deviation of about 2."""
    apart = np.random.default_rng(1).normal(0, 2, number)
    apart = lead + apart - apart.mean()
    return apart, [*videos("peer", *[30.0] * number), *videos(OURS, *(30 + apart), setting="2x")]


def test_the_interval_is_that_of_a_mean_over_videos_and_always_the_same():
    apart, records = scattered(1.0)
    found = duel_of(*records).differences["psnr"]
    half = 1.96 * apart.std() / sqrt(len(apart))
    assert (found.low, found.mean, found.high) == pytest.approx((1 - half, 1, 1 + half), abs=0.1)
    assert duel_of(*records).differences == duel_of(*reversed(records)).differences


@pytest.mark.parametrize(("lead", "outcome"), [(2.0, "ours"), (-2.0, "theirs"), (0.5, "level"), (-0.5, "level")])
def test_somebody_is_closer_where_the_interval_excludes_0(lead, outcome):
    assert duel_of(*scattered(lead)[1]).outcome == outcome


def test_with_fewer_videos_than_enough_nobody_is_closer_however_far_apart():
    lost = [*videos("peer", *[40.0] * 6), *videos(OURS, *[30.0] * 6, setting="2x")]
    assert duel_of(*lost).outcome == "theirs"
    few = duel_of(*(one for one in lost if one.seed < 6))
    assert (few.outcome, few.differences["psnr"].low, few.differences["psnr"].high) == (paired.FEW, -inf, inf)


def test_ahead_are_those_that_won_the_furthest_first_by_place():
    def beside(**place):
        return [one for lead in (35.0, 45.0, 25.0) for one in videos("peer", *[lead] * 6, setting=str(lead), **place)]

    ours = videos(OURS, *[30.0] * 6, setting="2x")
    records = [*beside(), *ours, *videos("cheap", *[40.0] * 6, work=0.1), *beside(model="clips")]
    found = paired.ahead(paired.duels(paired.places(records)))
    assert {place: [duel.theirs.psnr for duel in lost] for place, lost in found.items()} == {HERE: [45.0, 35.0]}


# --- At a speed


def at(speed, *records):
    return paired.at_speed(paired.points(paired.places(records)).values(), speed)


@pytest.mark.parametrize(
    ("works", "chosen"), [((0.41, 0.5, 0.524), 0.524), ((0.41, 0.526), 0.41), ((0.39, 0.526), None)]
)
def test_a_method_is_at_a_speed_with_its_most_work_within_what_is_allowed(works, chosen):
    records = [record("a", setting=str(work), work=work, psnr=100 * work) for work in works]
    assert {method: found.psnr for method, found in at(2, *records).items()} == (
        {} if chosen is None else {"a": pytest.approx(100 * chosen)}
    )


def test_at_a_speed_a_method_has_its_mean_its_worst_and_in_how_many_places_it_is_near_the_best():
    records = [*videos("a", 30.0, 32.0), *videos("b", 31.9, 32.1)]  # means of 31 and 32
    records += [*videos("a", 40.0, condition="lcm 12", worst_frame=15.0), *videos("b", 38.9, condition="lcm 12")]
    records += videos("b", 20.0, model="clips")
    found = at(2, *records)
    assert found["a"] == paired.AtSpeed(35.5, 30.0, 15.0, near_best=2, places=2)
    assert found["b"] == paired.AtSpeed(pytest.approx((32 + 38.9 + 20) / 3), 20.0, 25.0, near_best=2, places=3)


def test_a_place_where_nobody_else_is_at_a_speed_is_no_place_to_be_best_in():
    alone = [*videos(OURS, 30.0), *videos(f"{OURS} on even steps", 20.0)]
    assert at(2, *alone) == {}
    assert at(2, *alone, *videos("a", 25.0))[OURS].places == 1
