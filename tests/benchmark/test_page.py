import pytest
from benchmark.made_up import plain, record, videos

from research.benchmark import page, paired, plots
from research.benchmark.paired import FEW, OURS
from research.benchmark.plan import Condition
from research.benchmark.records import BROKEN

EULER = Condition("euler", 30, 3.0, 4.0)
UNI_PC = Condition("uni_pc", 20, 8.0, 6.0)


def row_of(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def paragraph_of(text, start):
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line


@pytest.fixture
def records():
    """Six videos under two conditions: under EULER a peer is ahead of ours by 4 dB, under UNI_PC it is behind by 2."""
    made = [plain(condition=each.name, seed=seed) for each in (EULER, UNI_PC) for seed in range(1, 7)]
    for each, ours, theirs in ((EULER, 28.0, 32.0), (UNI_PC, 42.0, 40.0)):
        made += videos(OURS, *[ours] * 6, setting="2x", condition=each.name, work=0.48, bytes=2_500_000)
        made += videos("peer", *[theirs] * 6, setting="0.1", condition=each.name, work=0.5)
    return made


def people(records, plan=None):
    return page.pages(records, plan or {}, "Made here.")[0]


# --- For people


def test_the_page_says_who_measured_and_on_which_models_and_that_the_others_only_judge(records):
    text = people([*records, *videos("peer", 30.0, model="clips")])
    assert "Made here." in text
    assert f"- `demo` (used for tuning), 6 videos for each condition: {EULER.name}; {UNI_PC.name}." in text
    assert f"- `clips` (judges), 1 videos for each condition: {EULER.name}." in text
    assert "tuned on `demo` alone" in text


def test_it_names_the_condition_under_which_the_published_table_does_as_in_the_paper(records):
    assert "nearest to real models" not in people(records)
    for each, psnr in ((EULER, 30.0), (UNI_PC, 25.0)):
        records += videos(page.PUBLISHED, *[psnr] * 6, setting="as published", condition=each.name, work=0.4)
    line = paragraph_of(people(records), "The condition nearest to real models")
    assert f"*{UNI_PC.name}*" in line
    assert "25.0 dB at 2.50x" in line
    few = [each for each in records if each.method != page.PUBLISHED or each.seed < 6]
    assert "nearest to real models" not in people(few)


def test_models_and_conditions_come_in_the_order_of_the_plan(records):
    text = people(records, {("demo", UNI_PC.name, "peer"): 6, ("demo", EULER.name, "peer"): 6})
    assert f"{UNI_PC.name}; {EULER.name}." in text


def test_broken_videos_are_counted_and_in_no_figure(records):
    assert "None of the 12 plain videos came out broken." in people(records)
    spoilt = [*records, plain(seed=7, setting="broken"), record("peer", seed=7, psnr=5.0, setting="0.1")]
    text, data = page.pages(spoilt, {}, "")
    assert "1 of the 13 plain videos came out broken: noise, or faded. They are left out everywhere" in text
    assert f"## Broken plain videos\n\n- demo, {EULER.name}: 1\n" in data
    assert row_of(text, "peer") == row_of(people(records), "peer")


def test_the_table_has_mean_worst_video_and_share_near_the_best_at_each_speed_and_memory(records):
    records += videos("peer", 20.0, 24.0, setting="0.3", work=0.33)
    text = people(records)
    assert row_of(text, "peer") == ["peer", "–", "36.0 / 32.0 / 1 of 2", "22.0 / 20.0 / 1 of 1", "0.0"]
    assert row_of(text, f"**{OURS}**") == [f"**{OURS}**", "–", "35.0 / 28.0 / 1 of 2", "–", "2.5"]


def test_the_table_begins_with_who_is_near_the_best_most_often(records):
    for number in range(3):
        records += videos("third", 30.0, condition=f"other {number}")
        records += videos("fourth", 29.5 if number else 10.0, condition=f"other {number}")
    lines = [line.split("|")[1].strip("* ") for line in people(records).splitlines() if line.startswith("|")]
    assert lines[2:] == ["third", "fourth", "peer", OURS]


def test_memory_is_that_on_the_model_that_it_is_told_of(records):
    records += videos("elsewhere", 30.0, model="clips", bytes=9_000_000)
    text, data = page.pages(records, {}, "")
    assert row_of(text, "elsewhere")[-1] == "–"
    assert row_of(data.split("## clips\n")[1].split("##")[0], "elsewhere")[-1] == "9.0"


def test_the_duels_of_each_model_are_counted_by_how_they_came_out(records):
    records += videos("cheap", 20.0, work=0.1)
    text = people(records)
    assert "`AdaCache auto` (2x)" in text
    line = paragraph_of(text, "- `demo`: 3 settings")
    assert "closer than 1 and level with 0; 1 is closer than ours. 0 were measured on too few videos" in line
    assert "; 1 do less work than any" in line


def test_a_paragraph_tells_who_is_ahead_where_and_by_how_much(records):
    records += videos("other", *[29.0] * 6) + videos("other", *[30.0] * 6, setting="2")
    records += videos("far", *[20.0] * 6) + videos("level", *[28.0] * 6)
    text = people(records)
    assert paragraph_of(text, "**demo, ") == (
        f"**demo, {EULER.name}.** Settings of other methods that were compared on enough videos: 5; closer than ours: "
        "3; level: 1. peer at 0.1 is furthest ahead: by 4.0 dB (95 % interval 4.0 to 4.0); it is closer "
        "in 100 % of 6 videos. It does 50 % of the plain run's work, ours (at 2x) 48 %. Its worst video has 32.0 dB, "
        "ours 28.0 dB. Also ahead: other (by up to 2.0 dB)."
    )


def test_where_nobody_is_ahead_the_page_says_so(records):
    text = people([one for one in records if one.condition == UNI_PC.name])
    assert "No other method is ahead in what has been measured." in text


def test_what_is_planned_and_not_measured_is_counted_and_named_in_few_words(records):
    plan = {("demo", each.name, method): 6 for each in (EULER, UNI_PC) for method in (OURS, "peer")}
    all_of_it, data = page.pages(records, plan, "")
    assert "planned pairs" not in all_of_it
    assert "All of these were measured" in data
    late = [("demo", EULER.name, "late"), ("demo", "lcm 12", "peer"), ("demo", "lcm 12", "late")]
    late += [("clips", "one", "peer"), ("clips", "two", "peer")]
    some_of_it, data = page.pages(records, plan | dict.fromkeys(late, 2), "")
    assert "4 of the 9 planned pairs of method and condition are measured, and 71 % of the planned videos" in some_of_it
    missing = data.split("## Not measured yet\n")[1]
    assert missing.strip().splitlines() == [
        f"- `demo`, {EULER.name}: late.",
        "- `demo`, lcm 12: nothing is measured.",
        "- `clips`, any condition: nothing is measured.",
    ]


def test_of_a_broken_video_nothing_more_is_missing(records):
    plan = {("demo", UNI_PC.name, "peer"): 8}
    assert "and 75 % of the planned videos." in people(records, plan)
    broken = [plain(setting=BROKEN, condition=UNI_PC.name, seed=seed) for seed in (7, 8)]
    assert "planned videos" not in people(records + broken, plan)


# --- All else


def test_every_setting_has_its_row_with_all_figures():
    point = paired.point(paired.Place("demo", ""), paired.Choice("peer", "0.1"), [record("peer", bytes=1_200_000)])
    expected = ["0.1", "1", "0.500", "0.500", "0.50", "30.0", "30.0", "25.0", "0.900", "0.1000", "1.00", "20.0", "1.2"]
    assert row_of(page.settings([point]), "peer")[1:] == expected


def test_a_time_that_nobody_took_is_a_dash():
    point = paired.point(paired.Place("demo", ""), paired.Choice("peer", "0.1"), [record("peer", time=None)])
    assert row_of(page.settings([point]), "peer")[5] == "–"


def test_every_duel_has_its_row_under_its_condition(records):
    records += videos("few", 27.0, 27.0, setting="0.2", lpips=0.2) + videos("cheap", 20.0, work=0.1)
    _, data = page.pages(records, {}, "Made here.")
    duels = data.split(f"## demo, {EULER.name}\n")[1].split("<summary>Comparisons</summary>")[1].split("</details>")[0]
    theirs = ["peer", "0.1", "0.500", "2x", "0.480", "6", "-4.00", "-4.00 to -4.00", "0 %"]
    assert row_of(duels, "peer") == [*theirs, "+0.0", "+0.000", "+0.0000", "+0.00", "theirs"]
    assert row_of(duels, "few")[5:] == ["2", "+1.00", "–", "100 %", "+0.0", "+0.000", "+0.1000", "+0.00", FEW]
    assert row_of(duels, "cheap") == ["cheap", "1", "0.100", *[""] * 10, "no match"]
    assert "+2.00 to +2.00" in data.split(f"## demo, {UNI_PC.name}\n")[1]


# --- Plots


def points_of(records):
    return list(paired.points(paired.places(records)).values())


def test_a_curve_has_a_point_for_each_setting_by_falling_work():
    records = [record("a", setting=str(work), work=work, psnr=psnr) for work, psnr in ((0.4, 20.0), (0.8, 40.0))]
    assert plots.curve(points_of(records), "a") == ([0.8, 0.4], [40.0, 20.0])


def test_a_point_is_the_mean_over_all_places_or_there_is_none():
    records = [record("a", setting="bold", work=work, psnr=30.0, condition=str(work)) for work in (0.4, 0.6)]
    records.append(record("a", setting="shy", work=0.9, condition="0.4"))
    assert plots.curve(points_of(records), "a") == ([pytest.approx(0.5)], [30.0])
    assert plots.curve(points_of(records), "b") == ([], [])


def test_where_the_sampler_draws_noise_nothing_is_drawn():
    records = [record(name, condition=where) for name in plots.ALWAYS for where in ("lcm 12, shift 8", "euler 12")]
    (kept,) = plots.compared(points_of(records))
    assert {one.place.condition for one in kept} == {"euler 12"}


def test_drawn_are_ours_fewer_steps_and_the_best_that_are_everywhere():
    names = ["fewer steps", OURS, *"abcdef", "AdaCache auto + MoReg"]
    records = [record(name, psnr=20.0 + number) for number, name in enumerate(names)]
    records += [record(name, condition="another") for name in names if name != "f"]
    assert plots.shown(points_of(records)) == [OURS, "fewer steps", "e", "d", "c", "b"]
    assert plots.shown(points_of([one for one in records if one.method not in plots.ALWAYS])) == [*"edcba"]


def test_drawn_are_conditions_in_which_most_others_were_measured_whoever_is_ahead_there():
    names = ["fewer steps", OURS, *"abcd"]
    records = [record(name, condition=condition) for name in names for condition in ("all", "less one")]
    records = [one for one in records if (one.condition, one.method) != ("less one", "d")]
    records += [record(name, condition="few") for name in ("fewer steps", OURS, "a", "b")]
    records += [record(name, condition="without fewer steps") for name in (OURS, *"abcd")]
    measured = paired.points(paired.places(records))
    kept = plots.compared(list(measured.values()))
    assert {place.condition for place, here in measured.items() if here in kept} == {"all", "less one"}
    alone = paired.points(paired.places([record(OURS)]))
    assert plots.compared(list(alone.values())) == list(alone.values())


def test_no_two_curves_of_a_picture_look_alike_and_a_method_keeps_its_look():
    first, second, third = plots.styled([[OURS, *"abcde"], [*"axbyz"], [OURS, "x"]])
    for picture in (first, second, third):
        for part in ("color", "linestyle", "marker"):
            assert len({str(style[part]) for style in picture.values()}) == len(picture)
    assert (second["a"], second["b"]) == (first["a"], first["b"])
    assert first[OURS] not in second.values()
    assert (third[OURS], third["x"]) == (first[OURS], second["x"])
    one, other = plots.styled([[OURS, "a"], [OURS, "b"]])
    assert one["a"] != other["b"], "while there are looks left"


def test_a_picture_of_each_model_is_drawn_and_shown_on_the_page(records, tmp_path):
    records += videos("peer", 30.0, model="clips")
    drawn = plots.draw(paired.points(paired.places(records)), tmp_path)
    assert sorted(file.name for file in drawn) == ["benchmark_clips.png", "benchmark_demo.png"]
    text = people(records)
    assert all(file.stat().st_size > 5000 and f"](images/{file.name})" in text for file in drawn)


# --- The README


def test_the_headline_says_the_figures_and_their_conditions_and_leaves_the_rest_of_the_readme(records):
    records += videos(OURS, 31.0, setting="2x", condition=UNI_PC.name, work=0.48, time=0.5)  # seed 1, measured again
    readme = f"before\n{page.HEADLINE}\nold paragraph\nafter\n"
    text = page.with_headline(readme, records, [EULER, UNI_PC], "a machine")
    assert text == (
        f"before\n{page.HEADLINE}\n**With preset auto at 2x: 2.00x faster (the model ran 2.08x less), and 34.1 dB "
        "PSNR to the video without AdaCache, on average.** Above 40 dB hardly anybody sees a difference; below 25 dB "
        f"it is another video. The worst video has 28.0 dB. The worst condition is {EULER.name}: 28.0 dB on average, "
        "and the model ran 2.08x less. Measured on 12 videos of the small demo model, on which auto was tuned, under "
        "2 conditions (euler, uni_pc; 20 to 30 steps, shift 3 to 8, cfg 4 to 6), on a machine. "
        "[All conditions, other models, all other methods](docs/benchmarks.md).\n"
        "after\n"
    )


def test_the_headline_is_of_runs_of_enough_steps_without_noise_of_their_own(records):
    left_out = [Condition("euler_ancestral", 20, 5.0, 4.0), Condition("euler", 12, 3.0, 4.0)]
    records += [one for each in left_out for one in videos(OURS, 1.0, setting="2x", condition=each.name)]
    records += videos(OURS, 1.0, setting="2x", model="clips") + videos(OURS, 1.0, setting="4x")
    text = page.with_headline(f"{page.HEADLINE}\n\n", records, [EULER, *left_out], "a machine")
    assert "28.0 dB PSNR to the video without AdaCache, on average" in text
    assert f"Measured on 6 videos of the small demo model, on which auto was tuned, under {EULER.name}, on" in text


def test_without_a_time_the_headline_claims_none():
    timeless = videos(OURS, 30.0, setting="2x", time=None)
    text = page.with_headline(f"{page.HEADLINE}\n\n", timeless, [EULER], "")
    assert "2x: the model ran 2.00x less, and 30.0 dB PSNR" in text


def test_a_headline_of_nothing_or_for_a_readme_without_its_place_is_refused(records):
    with pytest.raises(ValueError, match="no record of AdaCache auto at 2x"):
        page.with_headline(f"{page.HEADLINE}\n\n", [], [EULER], "")
    with pytest.raises(ValueError, match="no line <!-- headline"):
        page.with_headline("no mark\n", records, [EULER], "")
