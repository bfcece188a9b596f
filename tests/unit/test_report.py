"""The report of a run: its derived numbers, and writing it to JSON and reading it again."""

import json
import math

import pytest

from adacache_core import AdaCacheError, RunReport, StepRecord
from adacache_core.tell.report import schedules_in


def report_of(states, seconds=None, **extra):
    """One evaluation per letter: c computed, r reused, p partly (one of two calls), a answered by another pack."""
    calls = {"c": ("computed", 2, 2), "r": ("reused", 2, 0), "p": ("partly", 2, 1), "a": ("answered", 2, 0)}
    records = []
    for index, letter in enumerate(states):
        state, total, computed = calls[letter]
        record = StepRecord(index, index, 1.0 - index / 10, state, calls=total, calls_computed=computed)
        record.seconds = seconds and seconds[index]
        records.append(record)
    return RunReport(sampler_steps=len(states), evaluations=records, **extra)


def test_computed_counts_every_evaluation_that_ran_blocks():
    report = report_of("ccrprr")
    assert (report.computed, report.total) == (3, 6)


def test_the_counted_speedup_is_that_of_the_model_calls():
    assert report_of("ccrrrr").counted_speedup == 3
    assert report_of("ccprrr").counted_speedup == 6 / 2.5


def test_an_evaluation_that_was_skipped_whole_is_no_work():
    report = report_of("ccrr", reuse="output")
    for record in report.evaluations[2:]:
        record.calls = 0
    assert (report.computed, report.skipped, report.computed_fraction) == (2, 2, 0.5)
    assert report.schedule().computed == (True, True, False, False)


def test_an_evaluation_without_calls_counts_by_its_state():
    report = report_of("cr")
    for record in report.evaluations:
        record.calls = record.calls_computed = 0
    assert report.counted_speedup == 2


@pytest.mark.parametrize("states", ["", "cccc"])
def test_nothing_skipped_is_no_speedup(states):
    report = report_of(states, [1.0, 2.0, 1.0, 3.0][: len(states)])
    assert report.counted_speedup == 1
    assert report.measured_speedup is report.seconds_saved is None
    assert "faster" not in report.summary()
    assert "counted" not in report.summary()


def test_what_another_pack_answered_is_neither_computed_nor_a_speedup_of_ours():
    report = report_of("ccaa", [2, 2, 0, 0])
    assert (report.computed, report.total, report.skipped) == (2, 4, 0)
    assert report.counted_speedup == 1
    assert report.measured_speedup is None
    assert report_of("ccccaarr", [2, 2, 2, 2, 0, 0, 1, 1]).measured_speedup == pytest.approx(6 * 2 / 10)
    assert report_of("ccccaarr").counted_speedup == pytest.approx(6 / 4)


def test_the_measured_speedup_compares_with_a_usual_computed_evaluation():
    """The first two computed evaluations warm up (here 100 s), and an interrupted one does not count either."""
    seconds = [100, 100, 2, 2, 50, 0, 0, 0]
    assert report_of("cccccrrr", seconds).measured_speedup == pytest.approx(8 * 2 / 254)
    assert report_of("ccccrrrr", [2, 2, 2, 2, 0, 0, 0, 0]).measured_speedup == 2


def test_with_few_computed_evaluations_all_of_them_are_the_measure():
    assert report_of("ccrr", [2, 2, 0, 0]).measured_speedup == 2


def test_the_time_saved_is_what_computing_all_would_have_taken_beyond_what_it_took():
    assert report_of("ccccrrrr", [2, 2, 2, 2, 0, 0, 0, 0]).seconds_saved == pytest.approx(8)
    assert report_of("cccr", [9, 9, 2, 1]).seconds_saved == pytest.approx(4 * 2 - 21)
    assert report_of("cr").seconds_saved is None


@pytest.mark.parametrize(("states", "seconds"), [("", None), ("cr", None), ("rr", [1, 1])])
def test_without_timings_of_computed_evaluations_there_is_no_measured_speedup(states, seconds):
    assert report_of(states, seconds).measured_speedup is None


def test_adacaches_own_work_is_not_part_of_what_a_computed_evaluation_would_take_without_it():
    report = report_of("ccccrrrr", [2.5, 2.5, 2.5, 2.5, 0, 0, 0, 0])
    for record in report.evaluations[:4]:
        record.own_seconds = 0.5
    assert report.measured_speedup == pytest.approx(8 * 2 / 10)


def test_partly_computed_evaluations_are_no_measure_of_a_full_one():
    assert report_of("ccccp", [2, 2, 2, 2, 1]).measured_speedup == pytest.approx(5 * 2 / 9)


def test_the_schedule_has_one_entry_per_sampler_step():
    report = report_of("crrp")
    assert report.schedule().computed == (True, False, False, True)


def test_a_step_computes_if_any_of_its_evaluations_does_and_if_it_never_came():
    records = [StepRecord(index, index // 2, None, state) for index, state in enumerate(["computed", "reused"] * 2)]
    records += [StepRecord(4, 2, None, "reused"), StepRecord(5, 2, None, "reused")]
    assert RunReport(sampler_steps=4, evaluations=records).schedule().computed == (True, True, False, True)


def test_a_schedule_is_written_with_its_format_and_its_source():
    data = json.loads(report_of("cr", family="Wan", preset="fast").schedule().to_json())
    assert data == {"format": "adacache.schedule", "version": 1, "source": "Wan fast", "computed": [True, False]}


@pytest.fixture
def full():
    """A report with something in every field, and numbers that JSON cannot write."""
    report = report_of(
        "cprc",
        [1.5, 1.0, 0.25, 1.5],
        model="WAN21_T2V",
        family="Wan",
        preset="fast",
        codebook="0.08:6, 1.0:1",
        target=2.5,
        reuse="output",
        moreg={"strength": 1.0, "strides": [1, 2], "window": None},
        cache_bytes_max=12345,
        cache_bytes_each=6789,
        notes=["MoReg off: because"],
    )
    numbers = [(0.1 + 0.2, 0.3, 17.0), (math.nan, math.nan, math.nan), (None, None, None), (math.inf, 0.0, -math.inf)]
    for record, (metric, motion, moreg) in zip(report.evaluations, numbers, strict=True):
        record.metric, record.motion, record.moreg = metric, motion, moreg
        record.reason, record.rate, record.error = "due", 4, motion
    report.evaluations[0].sigma = math.inf
    return report


def test_a_report_survives_json_not_a_number_included(full):
    again = RunReport.from_json(full.to_json())
    assert repr(again) == repr(full)  # repr, because nan is not equal to itself


def test_the_json_is_valid_for_every_reader(full):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads(full.to_json(indent=1), parse_constant=refuse)
    assert (data["format"], data["version"]) == ("adacache.report", 1)
    assert (data["computed"], data["total"]) == (3, 4)
    assert data["counted_speedup"] == full.counted_speedup
    assert data["measured_speedup"] == full.measured_speedup
    assert data["evaluations"][1]["metric"] == "nan"
    assert set(data) == {
        "format", "version", "model", "family", "sampler_steps", "preset", "codebook", "target", "reuse", "moreg",
        "evaluations", "computed", "total", "counted_speedup", "measured_speedup", "cache_bytes_max",
        "cache_bytes_each", "notes", "title", "stopped", "closeness", "expected_db", "expected_db_low",
        "expected_db_high", "would_take",
    }  # fmt: skip
    assert set(data["evaluations"][0]) == {
        "index", "step", "sigma", "state", "reason", "metric", "motion", "moreg", "rate", "seconds", "calls",
        "calls_computed", "corrected", "own_seconds", "error", "wrong", "tolerance",
    }  # fmt: skip


def test_settings_kept_as_tuples_are_written_as_lists(full):
    full.moreg = {"window": (0.1, math.inf)}
    assert RunReport.from_json(full.to_json()).moreg == {"window": [0.1, "inf"]}


def test_what_a_later_writer_added_is_left_out(full):
    data = json.loads(full.to_json())
    data["invented"] = data["evaluations"][0]["invented"] = True
    assert repr(RunReport.from_json(json.dumps(data))) == repr(full)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a report"),
        ('{"format": "adacache.schedule", "version": 1}', "not a report"),
        ('{"format": "adacache.report", "version": 2}', "version 2"),
        ('{"format": "adacache.report", "version": 1, "evaluations": [{}]}', "evaluations cannot be read"),
        ('{"format": "adacache.report", "version": 1, "evaluations": ["?"]}', "evaluations cannot be read"),
        ('{"format": "adacache.report", "version": 1, "evaluations": 3}', "evaluations cannot be read"),
    ],
)
def test_what_is_not_a_report_is_refused_with_a_sentence(text, complaint):
    with pytest.raises(AdaCacheError, match=complaint):
        RunReport.from_json(text)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({"evaluations": "x"}, "must be a list"),
        ({"notes": [1]}, r"'notes' must be a list of texts, got \[1\]"),
        ({"cache_bytes_max": "abc"}, "'cache_bytes_max' must be a whole number from 0 to [0-9]+, got 'abc'"),
        ({"cache_bytes_max": True}, "'cache_bytes_max' must be a whole number"),
        ({"cache_bytes_max": 10**400}, "'cache_bytes_max' must be a whole number"),
        ({"target": "2"}, "'target' must be a number or null, got '2'"),
        ({"moreg": {"strides": [[1]]}}, "'moreg' must be an object of settings or null"),
        ({"reuse": 1}, "'reuse' must be a text, got 1"),
        ({"evaluations": [{"index": 0, "step": 0, "sigma": None, "error": "much"}]}, "'error' must be a number"),
        ({"sampler_steps": 10**12}, "1000000000000 steps, no run has so many"),
        ({"codebook": "0.1:x"}, "codebook entry 1"),
        ({"evaluations": [{"index": 0, "step": 0}]}, "number 0: .*'sigma'"),
        ({"evaluations": [{"index": 1, "step": 0, "sigma": None}]}, "number 0 is called 1"),
        ({"evaluations": [{"index": 0, "step": 0, "sigma": None, "state": "lost"}]}, "'lost'"),
        ({"evaluations": [{"index": 0, "step": 0.5, "sigma": None}]}, "number 0: 'step' must be a whole number"),
    ],
)
def test_an_entry_that_could_not_be_used_is_refused_by_its_name(entries, complaint):
    with pytest.raises(AdaCacheError, match=complaint):
        RunReport.from_json(json.dumps({"format": "adacache.report", "version": 1} | entries))


def test_schedules_are_found_in_reports_in_what_saved_files_have_and_one_after_another():
    one, other = report_of("crcr", family="Wan"), report_of("ccr")
    schedules = [each.schedule() for each in (one, other)]
    in_a_file = json.dumps({"7": one.to_dict(), "12:3": other.to_dict()})
    assert schedules_in(in_a_file) == schedules_in(f"{one.to_json(indent=1)}\n{other.to_json()}") == schedules
    assert schedules_in(f"\n{schedules[0].to_json()}\n\n{other.to_json()}\n") == schedules
    assert schedules_in(" \n") == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "not a schedule"),
        ('{"7": {}}', "not a schedule"),
        ("1 2", "not a schedule"),
        (RunReport().to_json(), "of no run"),
        (f'{{"7": {RunReport().to_json()}}}', "of no run"),
    ],
)
def test_a_text_without_a_schedule_is_refused_with_a_sentence(text, complaint):
    with pytest.raises(AdaCacheError, match=complaint):
        schedules_in(text)


def test_a_note_makes_another_report_and_leaves_the_first_alone(full):
    noted = full.with_note("which one was taken")
    assert noted.notes == ["MoReg off: because", "which one was taken"]
    assert full.notes == ["MoReg off: because"]
    assert full.with_note("") is full


def test_the_summary_says_what_was_computed_and_held():
    summary = report_of("ccrrrrrr", [2, 2, 0, 0, 0, 0, 0, 0], preset="fast", cache_bytes_max=3 * 2**20).summary()
    for part in ("2 of 8", "4.00x counted", "4.00x faster", "3.0 MiB", "fast"):
        assert part in summary
