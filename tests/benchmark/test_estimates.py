"""The page of expected and measured closeness, from made-up runs."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

from research.benchmark import estimates
from research.benchmark.estimates import Run


def run(setting="auto 2x", seed=0, computed="1010", expected=30.0, came=32.0, model="demo", **more):
    its = {"model": model, "condition": "euler 4", "motion_class": "slow", "seed": seed, "setting": setting}
    said = {"computed": computed, "expected": expected, "low": 22.5, "high": 37.5, "came": came}
    seen = {"psnr": 40.0, "worst_frame": 35.0, "draft": 1, "good": 2, "faithful": 3}
    return Run(**(its | said | seen | more))


def rows_of(page, section):
    text = page.split(f"## {section}")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "][2:]


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "RECORDS", tmp_path / "runs.csv")
    runs = [run(seed=1), run("fixed", expected=None, low=None, high=None, draft=None, good=None, faithful=None)]
    assert estimates.read() == []
    estimates.write(runs)
    assert sorted(estimates.read(), key=lambda each: each.seed, reverse=True) == runs


def test_the_page_counts_what_lies_inside_the_range():
    runs = [run(seed=seed, came=came, expected=30.0 + seed) for seed, came in enumerate((32.0, 36.0, 39.0, 20.0))]
    (row,) = rows_of(estimates.page(runs, "Made."), "Expected and measured closeness")
    off = [2.0, 5.0, 7.0, -13.0]
    assert row[:4] == ["demo", "4", "50%", f"{sum(off) / 4:+.1f} dB"]


def test_one_quality_stands_beside_one_number_of_steps():
    runs = [run("good", 0, "1000", came=20.0), run("good", 1, "1110", came=30.0), run("fixed", 0, "1010", came=10.0)]
    good, fixed = rows_of(estimates.page(runs, "Made."), "One quality for all videos, or one number of steps for all")
    assert good[:8] == ["demo", "good", "2", "50%", "1 of 4 to 3 of 4", "25.0", "20.0", "5.0"]
    assert fixed[2:7] == ["1", "50%", "2 of 4 to 2 of 4", "10.0", "10.0"]


def test_what_a_mark_would_take_is_held_against_what_it_took():
    runs = [run(seed=0, good=2), run(seed=1, good=2), run("good", 0, "1110"), run("good", 1, "11111")]
    (row,) = rows_of(estimates.page(runs, "Made."), "How many steps another quality would compute")
    assert row == ["demo", "–", "50% of 2", "–"]


def test_a_model_without_runs_is_not_on_the_page():
    page = estimates.page([run(model="clips", seed=seed) for seed in range(2)], "Made.")
    assert [row[0] for row in rows_of(page, "Expected and measured closeness")] == ["clips"]


def test_the_fixed_schedule_has_the_share_of_all_and_the_places_of_its_own_condition(host_or_skip):
    (case,) = (
        case for case in estimates.plan.cases("demo", estimates.judged("demo")[0], 0) if case.motion_class == "static"
    )
    early = "1" * 10 + "0" * (case.steps - 10)
    here = [run("good", seed, early, condition=case.condition.name) for seed in range(2)]
    elsewhere = [run("good", 2, "1" * 30, condition="another")]
    made = estimates.fixed(case, [*here, *elsewhere]).computed
    share = (2 * 10 / case.steps + 1) / 3
    assert sum(made) == pytest.approx(share * case.steps, abs=1)
    assert sum(made[:10]) >= sum(made[10:])


@pytest.fixture
def host_or_skip():
    from research.benchmark.library import Bench, Unavailable

    try:
        return Bench()
    except Unavailable as missing:
        pytest.skip(str(missing))
