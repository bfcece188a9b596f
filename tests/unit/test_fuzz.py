"""Ten thousand broken documents and texts for every reader: refused with a sentence, or read and fit for use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import fuzz
import pytest

from adacache_core import FAST_30, AdaCacheError, Codebook, Fixed, RunReport, Schedule, StepRecord, average
from adacache_core.decide.base import Course
from adacache_core.tell.calibrate import codebook_from_json, codebook_to_json, curve_of
from adacache_core.tell.picture import draw
from adacache_core.tell.report import schedules_in

COUNT = 10_000
DRAWN = 50  # of those that were read; a picture takes much longer than reading
SLOWEST = 5.0  # seconds that a single text may take; hundreds of times what is usual, for machines under load


def outcomes(read: Callable[[str], Any], use: Callable[[Any], None], cases: Iterable[str]) -> tuple[int, list[Any]]:
    """How many were refused, and what was read, each once: all of it has been used."""
    refused, found = 0, {}
    for text in cases:
        begun = time.perf_counter()
        try:
            value = read(text)
        except AdaCacheError as error:
            refused += len(str(error).split()) > 3  # a sentence
        else:
            if found.setdefault(repr(value), value) is value:
                use(value)
        assert time.perf_counter() - begun < SLOWEST, text[:200]
    return refused, list(found.values())


@pytest.fixture(scope="module")
def report() -> RunReport:
    records = [
        StepRecord(0, 0, 1.0, "computed", "first step", seconds=0.5, calls=2, calls_computed=2),
        StepRecord(1, 1, 0.75, "computed", "no metric yet", 0.05, 0.3, 1.1, 6, 0.5, 2, 2),
        StepRecord(2, 2, 0.5, "reused", "rate 6", seconds=0.125, calls=2, error=0.25),
        StepRecord(3, 3, 0.25, "partly", "due", float("nan"), None, float("inf"), 2, 0.25, 2, 1, True),
    ]
    settings = {"strength": 1.0, "strides": [1, 2], "window": None, "form": "reference"}
    numbers = {"target": 2.0, "cache_bytes_max": 12345, "cache_bytes_each": 678, "sampler_steps": 4}
    return RunReport(
        "WanModel",
        "Wan",
        preset="fast",
        reuse="output",
        codebook=str(FAST_30),
        moreg=settings,
        evaluations=records,
        notes=["so"],
        **numbers,
    )


def use_report(report: RunReport) -> None:
    assert repr(RunReport.from_json(report.to_json())) == repr(report)
    assert report.summary()
    use_schedule(report.schedule())
    curve_of(report)


def use_schedule(schedule: Schedule) -> None:
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert len(average([schedule, schedule.for_steps(7)]).computed) == max(7, len(schedule.computed))
    controller = Fixed(schedule, at_output=False).controller(Course(10))
    assert controller.decide(controller.begin(), 0).compute
    assert str(schedule)


def use_schedules(schedules: list[Schedule]) -> None:
    if schedules:
        use_schedule(average(schedules))


def use_codebook(codebook: Codebook) -> None:
    assert codebook_from_json(codebook_to_json(codebook)) == codebook
    assert Codebook.parse(str(codebook), codebook.steps, codebook.name) == codebook
    for changed in (codebook.for_steps(1), codebook.for_steps(10_000), codebook.with_rates_times(10.0)):
        assert Codebook.parse(str(changed), changed.steps, changed.name) == changed
    controller = codebook.controller(Course(50))
    assert controller.decide(controller.begin(), 0).compute


def draw_with(codebooks: list[Codebook]) -> None:
    for codebook in codebooks[:DRAWN]:
        draw([RunReport(codebook=str(codebook), evaluations=[StepRecord(0, 0, None, metric=0.1)])], width=20)


def test_reports(report):
    use_report(report)
    refused, read = outcomes(RunReport.from_json, use_report, fuzz.documents(json.loads(report.to_json()), COUNT))
    assert refused > COUNT / 4
    assert len(read) > COUNT / 50
    draw(read[:5])
    for each in read[:DRAWN]:
        draw([each], width=20)


def test_schedules():
    correct = Schedule((True, False, True, True), "Wan auto")
    use_schedule(correct)
    refused, read = outcomes(Schedule.from_json, use_schedule, fuzz.documents(json.loads(correct.to_json()), COUNT))
    assert refused > COUNT / 4
    assert len(read) > COUNT / 100


def test_texts_with_schedules_and_reports(report):
    schedule = Schedule((True, False, True, True), "Wan auto").to_json()
    for number, correct in enumerate(
        (f"{schedule}\n{schedule}", report.to_json(indent=1), f'{{"7": {report.to_json()}}}')
    ):
        (expected, *_) = schedules_in(correct)
        assert expected.computed == (True, number > 0, number == 0, True)
        refused, read = outcomes(schedules_in, use_schedules, fuzz.texts(correct, COUNT // 3, seed=number))
        assert refused > COUNT / 12
        assert read


def test_codebooks_in_files():
    correct = json.loads(codebook_to_json(FAST_30, "a note"))
    use_codebook(FAST_30)
    refused, read = outcomes(codebook_from_json, use_codebook, fuzz.documents(correct, COUNT))
    assert refused > COUNT / 4
    assert len(read) > COUNT / 100
    draw_with(read)


def test_codebooks_in_the_papers_notation():
    refused, read = outcomes(Codebook.parse, use_codebook, fuzz.texts(str(FAST_30), COUNT))
    assert refused > COUNT / 4
    assert len(read) > COUNT / 100
    draw_with(read)
