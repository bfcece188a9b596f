"""A codebook from runs with preset watch: which runs count, the codebook that they give, and its file."""

import json
from statistics import mean

import pytest

from adacache_core import FAST_30, AdaCacheError, Codebook, RunReport, StepRecord
from adacache_core.tell.calibrate import (
    calibrate,
    codebook_from_json,
    codebook_to_json,
    computed_of,
    curve_of,
)

N = 30


def curve(level=0.1, end=0.3, steps=N):
    """Changes that are small in the middle, as in real runs."""
    return [level + end * abs(2 * step / steps - 1) ** 3 for step in range(1, steps)]


CURVES = [curve(level) for level in (0.05, 0.1, 0.2)]


def watched(changes, **spoiled):
    records = [StepRecord(step, step, None, metric=change) for step, change in enumerate([None, *changes])]
    for name, value in spoiled.items():
        setattr(records[7], name, value)
    return RunReport(sampler_steps=len(records), evaluations=records)


def test_the_curve_of_a_watched_run_is_its_metrics():
    assert curve_of(watched(CURVES[0])) == CURVES[0]


def test_second_evaluations_have_no_metric_and_do_not_matter():
    report = watched(CURVES[0])
    report.evaluations.insert(3, StepRecord(99, 2, None))
    assert curve_of(report) == CURVES[0]


@pytest.mark.parametrize("spoiled", [{"state": "reused"}, {"metric": None}, {"metric": float("nan")}], ids=str)
def test_a_run_that_skipped_or_did_not_measure_has_none(spoiled):
    assert curve_of(watched(CURVES[0], **spoiled)) == []


def test_a_stopped_run_and_one_of_nothing_have_none():
    report = watched(CURVES[0])
    del report.evaluations[20:]
    assert curve_of(report) == []
    assert curve_of(RunReport()) == []


def test_between_two_computed_steps_changes_count_with_their_mean():
    book = Codebook(((0.5, 3), (1.0, 1)), 12)
    stirring = [0.1, *([0.9, 0.9, 0.1] * 4)][:11]  # 0.63 on average, but calm at each step that would be computed
    assert computed_of(stirring, book) > computed_of([0.1] * 11, book)


@pytest.mark.parametrize("speedup", [1.0, 1.5, 2.0, 3.0])
def test_the_wanted_speedup_is_reached_on_average_and_runs_differ(speedup):
    found = calibrate(CURVES, speedup)
    assert mean(found.speedups) == pytest.approx(speedup, rel=0.1)
    assert list(found.speedups) == sorted(found.speedups, reverse=True)  # what changes less is faster
    assert [N / computed_of(each, found.codebook) for each in CURVES] == list(found.speedups)


def test_thresholds_split_the_observed_range_evenly_and_rates_fall():
    found = calibrate(CURVES, 2.0, entries=5)
    thresholds, rates = zip(*found.codebook.entries, strict=True)
    width = (found.high - found.low) / 5
    assert thresholds == pytest.approx([found.low + width * number for number in range(1, 6)], rel=1e-3)
    assert list(rates) == sorted(rates, reverse=True)
    assert found.codebook.steps == N


def test_a_run_that_never_changes_and_one_entry_work():
    assert len(calibrate([[0.1] * 29], 2.0).codebook.entries) == 1
    assert len(calibrate(CURVES, 2.0, entries=1).codebook.entries) == 1


@pytest.mark.parametrize(
    ("curves", "said"), [([], "there are none"), ([[]], "there are none"), ([[0.1] * 9, [0.1] * 29], "10, 30")]
)
def test_no_runs_and_runs_of_different_lengths_are_said(curves, said):
    with pytest.raises(AdaCacheError, match=said):
        calibrate(curves, 2.0)


def test_it_tells_what_it_saw():
    assert str(calibrate(CURVES, 2.0)).startswith("3 runs of 30 steps changed by 0.05")


def test_a_file_is_read_back():
    assert codebook_from_json(codebook_to_json(FAST_30, "a note")) == FAST_30


def changed(**changes):
    return json.dumps(json.loads(codebook_to_json(FAST_30)) | changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a codebook"),
        (changed(format="adacache.schedule"), "not a codebook"),
        (changed(version=2), "version 2"),
        (changed(entries=3), "cannot be read"),
        (changed(name=["x"]), "'name' must be a text"),
        (changed(entries=[[10**400, 1]]), "entry 1 has the threshold"),
        (changed(entries=[[0.1, 10**400]]), "entry 1 .* has the rate"),
        (changed(entries=[[0.1]]), "cannot be read"),
        (changed(entries=[["a", 2]]), "threshold"),
        (changed(entries=[[0.1, 2.5]]), "rate"),
        (changed(entries=[]), "at least one entry"),
        (changed(steps="many"), "step"),
    ],
)
def test_a_broken_file_is_refused_with_a_reason(text, said):
    with pytest.raises(AdaCacheError, match=said):
        codebook_from_json(text)
