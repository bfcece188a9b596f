"""A measured file, its picture, and the page of many files: what they keep, refuse and show."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from adacache_core import AdaCacheError, RunReport, StepRecord
from adacache_core.tell.measured import (
    AUTO,
    LONGEST_TEXT,
    PLAIN,
    QUALITY,
    RUNS,
    Likeness,
    Measured,
    MeasuredRun,
    Settings,
)
from adacache_core.tell.measured_picture import COLOURS, draw
from adacache_core.tell.picture import ALARM
from tools.measured import FILES, ONLINE, PAGE, main, page, plainly, read

SETTINGS = Settings(
    title="",
    model="WanModel",
    kind="WAN21_T2V",
    parameters=1_419_000_000,
    sampler="euler",
    scheduler="simple",
    steps=4,
    cfg=6.0,
    shift=8.0,
    batch=1,
    channels=16,
    frames=9,
    height=60,
    width=104,
    device="NVIDIA GeForce RTX 4090",
    comfyui="0.33.0",
    adacache="0.1.0",
    torch="2.11.0",
)


def run(states: str, seconds: float, likeness: Likeness | None = None, **more) -> MeasuredRun:
    """One evaluation per letter, c for computed and r for reused, each with the same seconds."""
    names = {"c": "computed", "r": "reused"}
    records = [StepRecord(at, at, None, names[each], seconds=seconds) for at, each in enumerate(states)]
    return MeasuredRun(RunReport(model="WanModel", sampler_steps=len(states), evaluations=records, **more), likeness)


def measured(closeness: float = 30.0, **changes) -> Measured:
    """8 s plain; 4 s with auto, expected at 30 dB (22.5 to 37.5); 5 s with quality, without an estimate."""
    near = Likeness(closeness, 0.98, 3, 21.0)
    expected = {"expected_db": 30.0, "expected_db_low": 22.5, "expected_db_high": 37.5}
    runs = {
        PLAIN: run("cccc", 2.0, preset="off"),
        AUTO: run("crcr", 1.0, near, preset="auto 2x", target=2.0, **expected),
        QUALITY: run("ccrc", 1.25, near, preset="quality 25 dB", closeness=25.0),
    }
    return Measured(replace(SETTINGS, **changes), runs)


def test_the_file_keeps_everything():
    assert Measured.from_json(measured().to_json()) == measured()
    assert Measured.from_json(measured(math.inf).to_json()) == measured(math.inf)


def test_what_follows_from_the_reports_is_written_too():
    auto = json.loads(measured().to_json())["runs"][AUTO]
    assert (auto["seconds"], auto["speedup"], auto["computed"], auto["evaluations"]) == (4.0, 2.0, 2, 4)
    assert (auto["expected_db"], auto["closeness"]) == (30.0, 30.0)


@pytest.mark.parametrize(("closeness", "place"), [(30.0, 0), (22.4, -1), (37.6, 1), (math.inf, 1)])
def test_where_a_closeness_lies(closeness, place):
    runs = measured(closeness).runs
    assert [runs[name].place for name in RUNS] == [None, place, None]


def test_nothing_is_claimed_beyond_forty_decibels():
    """So an equal video is inside a range that ends there."""
    near = Likeness(math.inf, 1.0, 0, math.inf)
    assert run("cr", 1.0, near, expected_db=35.0, expected_db_low=27.5, expected_db_high=40.0).place == 0


def change(path: str, value: object) -> Callable[[dict], None]:
    """An edit by hand; the value `...` removes the entry."""

    def edit(data: dict) -> None:
        *way, last = path.split("/")
        for each in way:
            data = data[int(each)] if isinstance(data, list) else data[each]
        if value is ...:
            del data[last]
        else:
            data[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("format", "adacache.report"), "not a measured"),
        (change("version", 2), "version 2"),
        (change("device", ...), "no 'device'"),
        (change("prompt", "a fox"), "'prompt', which does not belong"),
        (change("title", "x" * (LONGEST_TEXT + 1)), "'title' must be a line"),
        (change("title", "two\nlines"), "'title' must be a line"),
        (change("steps", "30"), "'steps'.* whole number"),
        (change("cfg", "inf"), "'cfg' must be finite"),
        (change("width", 0), "'width' must be at least 1"),
        (change("steps", 5), "has 4 steps, not 5"),
        (change("runs", []), "must have the runs"),
        (change("runs/quality", ...), "must have the runs plain, auto, quality"),
        (change("runs/auto", "fast"), "the run auto cannot be read"),
        (change("runs/auto/report", {}), "not a report"),
        (change("runs/auto/report/evaluations", []), "did not come to its end"),
        (change("runs/auto/report/stopped", "stopped by you"), "did not come to its end"),
        (change("runs/auto/report/evaluations/1/seconds", None), "has no times"),
        (change("runs/auto/report/evaluations/1/seconds", -1.0), "has no times"),
        (change("runs/plain/report/evaluations/1/state", "reused"), "plain run skipped"),
        (change("runs/auto/report/target", 3.0), "asked for something else"),
        (change("runs/quality/report/closeness", 10.0), "asked for something else"),
        (change("runs/auto/seconds", 3.0), "'seconds' of the run auto is 3.0, its report says 4.0"),
        (change("runs/auto/speedup", 9.9), "'speedup' of the run auto is 9.9, its report says 2.0"),
        (change("runs/auto/expected_db", 31.0), "'expected_db'"),
        (change("runs/auto/computed", ...), "'computed' of the run auto is None"),
        (change("runs/auto/closeness", "nan"), "'closeness' of the run auto is nan"),
        (change("runs/auto/motion_kept", "inf"), "'motion_kept' of the run auto is inf"),
        (change("runs/auto/closeness", ...), "no 'closeness'"),
        (change("runs/auto/path", "/home"), "'path', which does not belong"),
        (change("runs/plain/closeness", 30.0), "'closeness', which does not belong"),
    ],
)
def test_what_is_not_as_the_node_wrote_it_is_refused_with_what_it_is(edit, said):
    data = json.loads(measured().to_json())
    edit(data)
    with pytest.raises(AdaCacheError, match=said):
        Measured.from_json(json.dumps(data))


def test_a_large_and_a_small_model_are_told_by_their_size():
    assert measured().settings.name == "WAN21_T2V, 1.4B"
    assert measured(parameters=8_000_000).settings.name == "WAN21_T2V, 8M"
    assert measured(title="Mine").settings.name == "Mine"


def picture(of: Measured, width: int = 1000) -> Image.Image:
    frames = [Image.new("RGB", (104, 60), colour) for colour in ((9, 0, 0), (0, 9, 0), (0, 0, 9))]
    return draw(of, frames, "the same moment", ["a note"], width)


def colours(of: Image.Image) -> dict[tuple[int, int, int], int]:
    return {colour: count for count, colour in of.getcolors(of.width * of.height)}


@pytest.mark.parametrize("width", [400, 1000, 1733])
def test_the_picture_has_the_width_asked_for_and_all_three_frames_as_large(width):
    drawn = picture(measured(), width)
    assert drawn.width == width
    counts = [colours(drawn)[colour] for colour in ((9, 0, 0), (0, 9, 0), (0, 0, 9))]
    assert counts[0] == counts[1] == counts[2]


def test_a_disc_lies_where_the_video_came_and_a_bar_where_it_was_expected():
    near, far = (colours(picture(measured(closeness))) for closeness in (30.0, 10.0))
    bar = COLOURS[AUTO]
    assert near[bar] < far[bar]  # the disc hides a part of the bar


def test_a_video_that_is_less_close_than_expected_is_said_so_in_another_colour():
    assert ALARM in colours(picture(measured(15.0), 2000))
    assert ALARM not in colours(picture(measured(30.0), 2000))


@pytest.mark.parametrize("size", [(104, 60), (60, 300), (1, 1)])
def test_frames_of_any_shape_fit(size):
    frames = [Image.new("RGB", size, (9, 0, 0))] * 3
    assert draw(measured(), frames, "", [], 600).width == 600


@pytest.fixture
def folder(tmp_path):
    """Two good files, and three that are not."""
    (tmp_path / "one.json").write_text(measured().to_json())
    (tmp_path / "two.json").write_text(measured(15.0, title="B|[x](http://y) <i>", scheduler=None).to_json())
    return tmp_path


def test_every_good_file_has_a_row_and_those_outside_are_counted(folder):
    found, wrong = read(folder)
    assert wrong == []
    text = page(found)
    (one, two) = (line for line in text.splitlines() if line.startswith("| ["))
    assert one.startswith(
        f"| [WAN21\\_T2V, 1.4B]({ONLINE}/one.json) | euler, simple, 4 steps, cfg 6, shift 8 | 9 x 60 x"
    )
    assert "| 2 of 4, 2.00x | 30.0 (30, 22 to 38) | 3 of 4, 1.60x | 30.0 (no estimate) |" in one
    assert "own noise levels" in two
    assert "**15.0** (30, 22 to 38)" in two
    assert "with `auto` 1 of 2 (0 closer, 1 less close), with `quality` 0 of 0" in text


def test_a_strangers_words_are_no_markup():
    assert plainly("B|[x](http://y) <i>`@me www.z") == "B\\|\\[x\\](http\\:\\/\\/y) \\<i\\>\\`\\@me www\\.z"


def test_each_bad_file_has_a_line_and_then_no_page_is_written(folder, monkeypatch, capsys):
    monkeypatch.setattr("tools.measured.PAGE", folder / "page.md")
    (folder / "again.json").write_text(measured().to_json())  # the same as `one`
    (folder / "broken.json").write_text("{")
    (folder / "latin.json").write_bytes(b"\xff\xfe")
    (folder / "Big Name.json").write_text(measured().to_json())
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["Big Name.json", "broken.json", "latin.json", "one.json"]
    assert "the same as again.json" in lines[-2]
    assert "4 files of 6 are wrong" in lines[-1]
    assert not (folder / "page.md").exists()
    for name in ("again", "broken", "latin", "Big Name"):
        (folder / f"{name}.json").unlink()
    assert main([str(folder)]) == 0
    assert "1.4B" in (folder / "page.md").read_text()


def test_a_file_that_is_too_large_is_not_read(folder, monkeypatch):
    monkeypatch.setattr("tools.measured.LARGEST", 100)
    _, wrong = read(folder)
    assert len(wrong) == 2
    assert "at most 100 are allowed" in wrong[0]


def test_the_page_is_made_from_the_files_that_are_there():
    found, wrong = read(FILES)
    assert wrong == []
    assert PAGE.read_text() == page(found)


def test_our_own_file_is_the_demo_models_on_a_cpu_and_says_so():
    settings = read(FILES)[0]["demo_model"].settings
    assert settings.title == "our small demo model, on a CPU"
    assert settings.device == "CPU"
    assert settings.parameters < 10_000_000
