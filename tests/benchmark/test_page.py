import pytest
from benchmark.made_up import record

from tools.benchmark import page
from tools.benchmark.standing import points
from tools.benchmark.videos import PROMPTS


def shown(**fields):
    method, setting = page.SHOWN
    return record(method, setting=setting, **fields)


@pytest.fixture
def records():
    """Two methods on every class; ours is better by 2 dB but for the static class."""
    return [
        one
        for number, name in enumerate(PROMPTS)
        for one in (
            record("peer", motion_class=name, psnr=30.0 + number),
            shown(motion_class=name, psnr=32.0 + number if name != "static" else 29.5, ssim=0.987, wall_ratio=0.4),
        )
    ]


def row_of(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_standing_counts_won_points_and_margins(records):
    text = page.page(records, "made here")
    assert row_of(text.split("## euler")[0], "peer") == ["peer", "4", "3", "+1.38", "-0.50", "0"]
    assert "made here" in text


def test_equal_work_shows_the_best_within_each_fraction_and_marks_it(records):
    text = page.page(records, "").split("## euler")[1].split("<details>")[0]
    assert row_of(text, "peer")[1:] == ["", "", "", "31.5", "31.5"]
    assert row_of(text, page.SHOWN[0])[1:] == ["", "", "", "**32.9**", "**32.9**"]


def test_every_setting_has_its_row_with_all_figures(records):
    row = row_of(page.every_setting(points(records[1:2])[:1]), page.SHOWN[0])
    assert row[1:] == [page.SHOWN[1], "0.500", "0.500", "0.40", "29.5", "0.987", "1.00", "0.0"]


def test_a_time_that_nobody_took_is_a_dash():
    row = row_of(page.every_setting(points([record("peer", wall_ratio=None)])[:1]), "peer")
    assert row[4] == "–"


def test_a_picture_of_each_motion_class_is_drawn(records, tmp_path):
    drawn = page.draw(records, tmp_path)
    assert [path.name for path in drawn] == [f"benchmark_{name}.png" for name in PROMPTS]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_the_headline_says_the_figures_of_the_records_and_leaves_the_rest_of_the_readme(records):
    readme = f"before\n{page.HEADLINE}\nold paragraph\nafter\n"
    text = page.with_headline(readme, records, "a machine")
    assert text.startswith(f"before\n{page.HEADLINE}\n**2.50x measured (2.00x counted) at 32.9 dB PSNR and SSIM 0.987")
    assert text.endswith("\nafter\n")
    assert "a machine" in text
    assert "old paragraph" not in text
