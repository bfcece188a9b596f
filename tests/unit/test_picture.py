"""What a reader must be able to see in the picture of a run."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from adacache_core import FAST_30, SLOW_30, Codebook, RunReport, StepRecord
from adacache_core.tell.canvas import PANEL
from adacache_core.tell.picture import beside, draw

WIDTH = 1000
STRIP_LEFT, STRIP_RIGHT, STRIP_TOP, STRIP_BOTTOM = 92, 920, 103, 175  # of the first report, at this width


def report_of(states: str, metric=0.2, codebook: Codebook = FAST_30, **extra) -> RunReport:
    """One evaluation per letter: c computed, r reused, p partly, a answered by another pack."""
    names = {"c": "computed", "r": "reused", "p": "partly", "a": "answered"}
    records = [
        StepRecord(index, index, None, names[letter], metric=metric if letter == "c" and index else None, rate=4)
        for index, letter in enumerate(states)
    ]
    return RunReport(model="WAN21", preset="fast", codebook=str(codebook), evaluations=records, **extra)


def bars(picture, count: int) -> list[tuple[float, int]]:
    """For each bar its height, as a share of the strip, and the number of colour changes from bottom to top."""
    zoom = picture.width / WIDTH
    found = []
    for index in range(count):
        x = STRIP_LEFT + (index + 0.4) * (STRIP_RIGHT - STRIP_LEFT) / count
        rows = range(STRIP_TOP + 1, STRIP_BOTTOM - 1)
        filled = [math.dist(picture.getpixel((int(x * zoom), int(y * zoom))), PANEL) > 40 for y in rows]
        changes = sum(above != below for above, below in pairwise(filled[filled.index(True) :]))
        found.append((1 - filled.index(True) / len(filled), changes))
    return found


def colours(picture) -> set[tuple[int, int, int]]:
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


def test_the_strip_shows_each_evaluation_by_height_and_a_partly_computed_one_by_stripes():
    states = "ccrrpcrcrrpc"
    shown = bars(draw([report_of(states)]), len(states))
    for letter, (height, changes) in zip(states, shown, strict=True):
        assert height == pytest.approx({"c": 1.0, "r": 0.2, "p": 0.62}[letter], abs=0.08)
        assert (changes > 2) == (letter == "p")


@pytest.mark.parametrize("width", [250, 450, 1000, 1733])
def test_the_picture_has_the_width_asked_for_and_keeps_its_shape(width):
    picture = draw([report_of("ccrrcrcc")], width)
    full = draw([report_of("ccrrcrcc")])
    assert picture.mode == "RGB"
    assert picture.width == width
    assert picture.height == pytest.approx(full.height * width / full.width, abs=1)


def test_panels_that_no_report_has_numbers_for_are_left_out():
    plain, off = report_of("ccrrcc"), report_of("cccccc", metric=None)
    with_moreg = report_of("ccrrcc")
    for record in with_moreg.evaluations:
        record.moreg = record.motion = 0.5
    for record in off.evaluations:
        record.rate = None
    assert draw([off]).height < draw([plain]).height < draw([with_moreg]).height


def moving(*scores: float | None) -> RunReport:
    """A report with motion only: one evaluation for each score, two sampler steps apart."""
    records = [StepRecord(index, 2 * index, None, motion=score) for index, score in enumerate(scores)]
    return RunReport(evaluations=records)


def test_where_motion_rises_its_gradient_lies_above_where_it_falls():
    rising, falling = (86, 180, 233), (230, 159, 0)
    picture = draw([moving(0.1, None, 0.2, 0.4), moving(0.4, 0.3, None, 0.1)])
    only_scores = draw([moving(0.1), moving(0.4)]).height
    panel = picture.crop((STRIP_LEFT, only_scores - 40, STRIP_RIGHT, picture.height))  # what is below the scores
    rows = {
        colour: [y for y in range(panel.height) if any(panel.getpixel((x, y)) == colour for x in range(panel.width))]
        for colour in (rising, falling)
    }
    assert max(rows[rising]) < min(rows[falling])


def test_a_single_motion_score_has_no_gradient():
    assert draw([moving(0.1)]).height == draw([moving(0.1, None)]).height < draw([moving(0.1, 0.1)]).height


def forecasting(*errors: float | None) -> RunReport:
    """A report of preset auto: one evaluation for each error; those without an error are reused."""
    states = ["reused" if error is None else "computed" for error in errors]
    records = [
        StepRecord(index, index, None, state, error=error)
        for index, (state, error) in enumerate(zip(states, errors, strict=True))
    ]
    return RunReport(preset="auto 2x", evaluations=records)


def marks_of(report: RunReport) -> list[int]:
    """The y of the centres of the marks on the report's curve, from left to right."""
    picture, blue = draw([report]), (86, 180, 233)
    found = []
    for record in report.evaluations:
        if record.error is not None:
            x = int(STRIP_LEFT + (record.index + 0.5) * (STRIP_RIGHT - STRIP_LEFT) / report.total)
            rows = [y for y in range(STRIP_BOTTOM + 20, picture.height) if picture.getpixel((x, y)) == blue]
            found.append(sum(rows) // len(rows))
    return found


def test_the_errors_of_forecasts_have_a_row_from_nothing_up_to_the_largest():
    without = draw([forecasting(*[None] * 7)]).height
    assert draw([forecasting(0.1, None, 0.3, 0.2, None, None, 0.0)]).height > without + 100
    first, highest, between, least = marks_of(forecasting(0.1, None, 0.3, 0.2, None, None, 0.0))
    assert highest < between < first < least
    assert between - highest == pytest.approx(first - between, abs=2)
    assert least - first == pytest.approx(first - between, abs=2)


@pytest.mark.parametrize("least", [0.001, 1e-9])
def test_a_small_error_left_in_the_latent_does_not_make_large_ones_look_alike(least):
    left = (least, 0.01, 0.03)
    report = forecasting(*[None] * 7)
    for stretch, wrong in enumerate(left):
        record = report.evaluations[2 * stretch + 2]
        record.state, record.wrong = "computed", wrong
    report.evaluations[0].state = "computed"
    picture, heights = draw([report]), []
    for stretch in range(len(left)):
        x = int(STRIP_LEFT + (2 * stretch + 1.5) * (STRIP_RIGHT - STRIP_LEFT) / report.total)
        below = range(STRIP_BOTTOM + 20, picture.height)
        heights.append(sum(picture.getpixel((x, y)) == (86, 180, 233) for y in below))
    assert heights[2] - heights[1] > 20
    assert heights[1] > heights[0] + 20


def test_errors_are_drawn_beside_the_change_of_another_run():
    auto, fast = forecasting(0.1, None, 0.3), report_of("ccr")
    assert draw([auto, fast]).height > draw([fast, fast]).height


@pytest.mark.parametrize("error", [0.0, 1e-30, 1e300, math.nan])
def test_any_error_can_be_drawn(error):
    assert len(colours(draw([forecasting(error, None, error, error)]))) > 10


def test_a_run_is_called_by_its_title():
    named, other = report_of("ccrrcc", title="circle"), report_of("ccrrcc", title="square")
    assert draw([named]).tobytes() != draw([other]).tobytes() != draw([report_of("ccrrcc")]).tobytes()


def test_without_evaluations_the_picture_says_so_and_shows_the_notes():
    silent, told = draw([RunReport()]), draw([RunReport(notes=["there is no AdaCache on this MODEL"])])
    assert len(colours(silent)) > 10  # smooth letters
    assert told.height > silent.height
    assert draw([]).tobytes() == silent.tobytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_is_marked(value):
    def alarmed(report: RunReport) -> int:
        picture = draw([report])
        return sum(number for number, (r, g, b) in picture.getcolors(10**7) if r > 220 and g < 140 and b < 110)

    fine, once, twice = (report_of("cccccccc") for _ in range(3))
    once.evaluations[3].metric = twice.evaluations[3].metric = twice.evaluations[5].metric = value
    assert alarmed(fine) == 0 < alarmed(once) < alarmed(twice)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_any_finite_metric_can_be_drawn(value):
    assert len(colours(draw([report_of("cccc", metric=value)]))) > 10


@pytest.mark.parametrize("states", ["c", "cr", "crr" * 333 + "c"], ids=len)
def test_any_number_of_evaluations_can_be_told_apart(states):
    heights = [height for height, _ in bars(draw([report_of(states)], max(WIDTH, 4 * len(states))), len(states))]
    assert [height > 0.5 for height in heights] == [letter == "c" for letter in states]


def test_a_codebook_of_ten_thousand_entries_can_be_drawn():
    codebook = Codebook(tuple((0.001 * (index + 1), 10_000 - index) for index in range(10_000)))
    assert draw([report_of("ccrrcc", codebook=codebook)]).size == draw([report_of("ccrrcc")]).size


def test_a_codebook_of_one_entry_and_one_that_starts_at_zero_can_be_drawn():
    for text in ("1.00:3", "0:9, 0.2:4, 1:1"):
        assert len(colours(draw([report_of("ccrrcc", codebook=Codebook.parse(text))]))) > 10


def test_several_reports_have_a_strip_and_curves_in_a_colour_each():
    one, two = draw([report_of("ccrrcc")]), draw([report_of("ccrrcc"), report_of("cccrcc", 0.1, SLOW_30)])
    strip = two.height - one.height
    first, second = (86, 180, 233), (230, 159, 0)
    assert strip > STRIP_BOTTOM - STRIP_TOP
    assert second in colours(two.crop((0, strip, WIDTH, STRIP_BOTTOM + strip)))
    curves = colours(two.crop((0, STRIP_BOTTOM + strip, WIDTH, two.height)))
    assert {first, second} <= curves
    assert second not in colours(one)
    assert draw([report_of("ccrrcc")] * 12).size[0] == WIDTH


def test_long_names_and_notes_are_cut_at_the_edge():
    long = report_of("ccrrcc", notes=["word\n" * 5000])
    long.model = "W" * 5000
    picture = draw([long])
    assert all(picture.getpixel((x, y)) == picture.getpixel((0, 0)) for x in (2, 997) for y in range(picture.height))


def test_values_at_the_ends_of_what_a_float_can_hold_are_drawn_at_the_edge():
    report = report_of("ccrrcc", codebook=Codebook.parse("5e-324:3, 1e308:2, 1.7e308:1"))
    for record, value in zip(report.evaluations, (5e-324, 1e308, 1.7e308), strict=False):
        record.metric = record.moreg = record.motion = value
    assert draw([report]).width == WIDTH


# Two videos in one

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 200, 30)


def still(*of: tuple[int, int, int], size=(32, 24)):
    return [Image.new("RGB", size, colour) for colour in of]


def test_two_videos_are_seen_at_the_same_moment_each_in_its_half():
    frames = beside([still(RED, GREEN), still(BLUE, RED)], None, "")
    assert len(frames) == 2
    for frame, left, right in zip(frames, (RED, GREEN), (BLUE, RED), strict=True):
        low = 0.7 * frame.height
        assert frame.getpixel((int(0.25 * frame.width), int(low))) == left
        assert frame.getpixel((int(0.75 * frame.width), int(low))) == right


@pytest.mark.parametrize("size", [(16, 16), (32, 20), (256, 144), (832, 480)])
def test_small_videos_are_enlarged_whole_times_and_keep_their_shape(size):
    (frame,) = beside([still(RED, size=size), still(RED, size=size)], None, "")
    of_the_first = (np.asarray(frame) == RED).all(axis=2)[:, : frame.width // 2]
    left, top, right, bottom = Image.fromarray(of_the_first).getbbox()
    assert (right - left) % size[0] == (bottom - top) % size[1] == 0
    assert (right - left) // size[0] == (bottom - top) // size[1]
    assert right - left >= 192


def test_the_steps_stand_above_the_videos(monkeypatch):
    said = []
    monkeypatch.setattr(
        "adacache_core.tell.canvas.Page.text", lambda page, x, y, text, *rest, **more: said.append(text) or x
    )
    videos = [still(RED), still(RED)]
    beside(videos, report_of("ccrrc"), "40.0 dB PSNR")
    assert said == ["without AdaCache", "5 of 5 steps", "with AdaCache (fast)", "3 of 5 steps, 40.0 dB PSNR"]
    said.clear()
    beside(videos, None, "40.0 dB PSNR")
    assert said == ["reference", "", "changed", "40.0 dB PSNR"]
