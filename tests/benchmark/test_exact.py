"""The comparison with exact videos: what is measured, and its section on the page."""

from __future__ import annotations

import torch

from research.benchmark import exact, plan
from research.benchmark.worker import methods_of


def test_distilled_models_and_samplers_that_draw_noise_have_no_exact_video():
    wanted = list(exact.wanted())
    assert {model for model, _ in wanted} == {"demo", "clips", "two_streams"}
    assert not any(condition.draws_noise for _, condition in wanted)
    assert wanted[0] == ("demo", plan.GUIDED[0])  # the most wanted first


def test_each_row_compares_the_same_videos_with_one_of_many_euler_steps(monkeypatch):
    """With stand-ins for the sampler: a video is a constant, which is its number of steps in thousandths."""
    asked = []

    def sample(bench, case, choice):
        asked.append((case.condition.sampler, case.condition.steps, choice))
        steps = case.condition.steps if choice is None else case.condition.steps / 2
        return torch.linspace(-1, 1, case.subject.latent[1] * 8 * 16 * 16).reshape(1, -1, 8, 16, 16) + steps / 1000

    monkeypatch.setattr(exact, "open_bench", lambda library: None)
    monkeypatch.setattr(exact, "_sample", sample)
    monkeypatch.setattr(exact, "is_broken", lambda latent: False)
    monkeypatch.setattr(exact, "wanted", lambda: [("demo", each) for each in plan.GUIDED[:2]])
    rows = list(exact.measured([{"model": "demo", "condition": plan.GUIDED[0].name}]))
    assert [row["condition"] for row in rows] == [plan.GUIDED[1].name]  # the other one is there already
    assert ("euler", exact.STEPS, None) in asked
    assert {choice for _, _, choice in asked} == {*exact.COMPARED.values()}
    videos = len(plan.cases("demo", plan.GUIDED[1], 0))
    assert all(len(rows[0][name]) == videos for name in exact.COMPARED)
    assert min(rows[0]["plain"]) > max(rows[0]["half"])  # nearer to the exact one


def test_what_is_compared_is_measured_by_the_benchmark():
    there = {(method.name, label) for method in methods_of("host") for label in method.settings}
    assert {choice for choice in exact.COMPARED.values() if choice} <= there


def test_a_broken_plain_video_is_left_out(monkeypatch):
    monkeypatch.setattr(exact, "open_bench", lambda library: None)
    monkeypatch.setattr(exact, "_sample", lambda bench, case, choice: torch.zeros(case.subject.latent))
    monkeypatch.setattr(exact, "wanted", lambda: [("demo", plan.GUIDED[0])])
    (row,) = exact.measured([])
    assert [row[name] for name in exact.COMPARED] == [[], [], []]


def test_the_section_has_the_mean_and_the_worst_video_of_each():
    made = {"command": "c", "date": "d", "commit": "e", "torch": "f", "machine": "g"}
    row = {"model": "demo", "condition": "euler 30", "plain": [30.0, 20.0], "ours": [29.0, 21.0], "half": [25.0, 11.0]}
    text = exact.section({"made": made, "rows": [row, row | {"model": "clips", "plain": [], "ours": [], "half": []}]})
    assert "| demo | euler 30 | 2 | 25.0 / 20.0 | 25.0 / 21.0 | 18.0 / 11.0 |" in text
    assert "| clips |" not in text
    assert exact.section({}) == ""


def test_the_section_has_the_means_over_all_videos_of_each_model():
    made = {"command": "c", "date": "d", "commit": "e", "torch": "f", "machine": "g"}
    rows = [
        {"model": "demo", "condition": "one", "plain": [30.0, 20.0], "ours": [29.0, 21.0], "half": [25.0, 11.0]},
        {"model": "demo", "condition": "two", "plain": [40.0], "ours": [40.0], "half": [30.0]},
        {"model": "clips", "condition": "one", "plain": [1.0], "ours": [2.0], "half": [3.0]},
    ]
    lines = exact.section({"made": made, "rows": rows}).splitlines()
    demo = "- `demo`, 3 videos: 30.0 dB plain, 30.0 dB with `AdaCache auto` at 2x, 22.0 dB with half of the steps"
    clips = "- `clips`, 1 videos: 1.0 dB plain, 2.0 dB with `AdaCache auto` at 2x, 3.0 dB with half of the steps"
    assert [line for line in lines if line.startswith("- ")] == [demo, clips]
