"""What the browser is told of a run: every evaluation once, in the end the report, and never at the run's expense."""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from host.running import STEPS, raising, sample, with_hook

WAN = "Wan t2v"
NODE, WORKFLOW, CLIENT = "7:11", "a workflow", "a browser"


class Browser:
    """The host's server, as much of it as a run sees, and what came out of it."""

    def __init__(self) -> None:
        self.client_id: str | None = CLIENT
        extra = {"extra_pnginfo": {"workflow": {"id": WORKFLOW}}}
        self.prompt_queue = SimpleNamespace(currently_running={3: (0, "prompt", {}, extra, [])})
        self.told: list[dict] = []
        self.tries = 0
        self.error: Exception | None = None

    def send_sync(self, event: str, data: dict, client: str) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        assert (event, client) == ("adacache.timeline", CLIENT)
        self.told.append(json.loads(json.dumps(data, allow_nan=False)))

    @property
    def evaluations(self) -> list[dict]:
        """As they were told one by one."""
        assert all(not message["done"] and len(message["evaluations"]) == 1 for message in self.told[:-1])
        return [message["evaluations"][0] for message in self.told[:-1]]


@pytest.fixture
def browser(monkeypatch, host) -> Browser:
    opened = Browser()
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=opened))
    monkeypatch.setitem(sys.modules, "server", server)
    return opened


@pytest.fixture
def watched(tiny, adacache):
    """`watched(**config)` -> (MODEL with AdaCache of a node on the screen, its attachment)."""

    def build(**config):
        model, attachment = adacache(tiny(WAN).model, **({"rate": 3} | config))
        attachment.node = NODE
        return model, attachment

    return build


def same(told: dict, record) -> bool:
    """Whether what was told of an evaluation is what its record says, to four digits; seconds may be estimates."""
    names = ("index", "step", "sigma", "state", "reason", "metric", "rate", "error")
    values = {name: getattr(record, name) for name in names}
    known = {name: value for name, value in values.items() if value is not None}
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in known.items()}
    return {name: value for name, value in told.items() if name != "seconds"} == rounded


@pytest.mark.parametrize("way", ["blocks", "output"])
def test_every_evaluation_is_told_as_it_comes_and_at_the_end_the_whole_report(way, tiny, by_output_or_blocks, browser):
    model, attachment = by_output_or_blocks(way, tiny(WAN).model)
    attachment.node = NODE
    sample(tiny(WAN), model)
    report = attachment.finished[-1].report
    assert any("error" in told for told in browser.evaluations) == (way == "output")
    assert {record.state for record in report.evaluations} == {"computed", "reused"}
    assert all(map(same, browser.evaluations, report.evaluations))
    last = browser.told[-1]
    assert last["done"]
    assert all(map(same, last["evaluations"], report.evaluations))
    assert [each["seconds"] for each in last["evaluations"]] == [
        pytest.approx(record.seconds, rel=1e-3) for record in report.evaluations
    ]
    assert (last["computed"], last["total"], last["expected"]) == (report.computed, report.total, STEPS)
    assert last["speedup"] == pytest.approx(report.measured_speedup, rel=1e-3)
    assert last["saved"] == pytest.approx(report.seconds_saved, rel=1e-3)
    assert {(message["node"], message["workflow"]) for message in browser.told} == {(NODE, WORKFLOW)}


def test_how_close_the_video_is_expected_to_be_is_told_after_the_run_in_numbers_and_words(
    tiny, by_output_or_blocks, browser
):
    model, attachment = by_output_or_blocks("output", tiny(WAN).model)
    attachment.node = NODE
    sample(tiny(WAN), model)
    report = attachment.finished[-1].report
    assert [message["closeness"] for message in browser.told[:-1]] == [None] * STEPS
    told, expected = browser.told[-1], report.expected
    assert told["closeness"] == {
        "db": pytest.approx(expected.db),
        "low": pytest.approx(expected.low),
        "high": pytest.approx(expected.high),
        "words": expected.words,
    }
    assert list(told["would_take"]) == ["draft", "good", "faithful"]
    assert told["would_take"] == report.would_take


def test_where_closeness_cannot_be_known_none_is_told(tiny, watched, browser):
    model, _ = watched()  # reuses what blocks added
    sample(tiny(WAN), model)
    assert browser.told[-1]["closeness"] is browser.told[-1]["would_take"] is None


def test_two_runs_are_told_apart(tiny, watched, browser):
    model, _ = watched()
    sample(tiny(WAN), model)
    sample(tiny(WAN), model)
    assert len({message["run"] for message in browser.told}) == 2


@pytest.mark.parametrize(("sampler", "evaluations"), [("euler", STEPS), ("heun", 2 * STEPS - 1)])
def test_how_many_evaluations_are_to_come_is_known_from_the_third_step_on(tiny, watched, browser, sampler, evaluations):
    model, attachment = watched()
    sample(tiny(WAN), model, sampler_name=sampler)
    told = [
        message["expected"]
        for message, each in zip(browser.told, browser.evaluations, strict=False)
        if each["step"] > 1
    ]
    assert set(told) == {evaluations}
    assert browser.told[-1]["expected"] == attachment.finished[-1].report.total


def test_the_time_left_is_estimated_and_ends_at_nothing(tiny, watched, browser):
    model, _ = watched()
    sample(tiny(WAN), model)
    left = [message["left"] for message in browser.told[:-1]]
    assert left[0] is None  # nothing was timed yet
    assert all(seconds > 0 for seconds in left[1:-1])
    assert left[-1] == 0


def test_a_run_that_is_stopped_is_told_as_far_as_it_came(tiny, watched, browser):
    model, attachment = watched()
    fifth = 1 + 5  # the first step calls the model twice (`Engine.prove`)
    with with_hook(raising(tiny(WAN).module, InterruptedError(), at=fifth)), pytest.raises(InterruptedError):
        sample(tiny(WAN), model)
    last = browser.told[-1]
    assert last["done"]
    assert last["stopped"] == f"stopped by an error (InterruptedError) at step 5 of {STEPS}"
    assert last["speedup"] is None
    assert last["total"] == attachment.finished[-1].report.total < STEPS


def test_a_broken_server_disturbs_no_run_and_is_left_alone(tiny, watched, browser):
    plain, _ = watched()
    expected = sample(tiny(WAN), plain)
    browser.error, browser.tries = RuntimeError("the loop is closed"), 0
    model, attachment = watched()
    assert torch.equal(sample(tiny(WAN), model), expected)
    assert attachment.finished[-1].report.total == STEPS
    assert browser.tries == 1


def test_a_server_of_another_shape_disturbs_no_run(tiny, watched, browser):
    del browser.prompt_queue, browser.client_id
    model, attachment = watched()
    sample(tiny(WAN), model)
    assert attachment.finished[-1].report.total == STEPS


def test_without_a_browser_a_node_or_a_server_nothing_is_sent(tiny, watched, browser, monkeypatch):
    model, attachment = watched()
    browser.client_id = None
    sample(tiny(WAN), model)
    browser.client_id, attachment.node = CLIENT, None
    sample(tiny(WAN), model)
    monkeypatch.delitem(sys.modules, "server")
    attachment.node = NODE
    sample(tiny(WAN), model)
    assert browser.tries == 0
    assert len(attachment.finished) == 3


def test_a_metric_that_is_not_finite_is_told_in_json_that_browsers_read(pack, browser):
    core, live = pack.adacache_core.tell.report, pack.nodes.host.live
    report = core.RunReport(sampler_steps=9, evaluations=[core.StepRecord(0, 0, 1.0, metric=float("nan"))])
    live.Live(NODE, report).evaluated()
    assert browser.told[0]["evaluations"][0]["metric"] == "nan"


def test_telling_of_an_evaluation_takes_less_than_a_millisecond(pack, browser):
    core, live = pack.adacache_core.tell.report, pack.nodes.host.live
    report = core.RunReport(sampler_steps=100)
    follower = live.Live(NODE, report)
    seconds = []
    for index in range(200):
        report.evaluations.append(core.StepRecord(index, index // 2, 1 - index / 200, metric=0.1, rate=2))
        begin = time.perf_counter()
        follower.evaluated()
        seconds.append(time.perf_counter() - begin)
    assert sorted(seconds)[100] < 1e-3
    assert len(browser.told) == 200


def test_the_inspectors_output_has_the_run_that_it_shows(tiny, watched, pack, browser, tmp_path):
    import folder_paths

    model, _ = watched()
    made = sample(tiny(WAN), model)
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    try:
        shown = pack.nodes.inspector.AdaCacheInspector.execute(model, {"samples": made}).ui
    finally:
        folder_paths.set_temp_directory(before)
    (timeline,) = shown["adacache"]
    told = browser.told[-1]
    assert timeline == {name: told[name] for name in told.keys() - {"node", "run", "workflow"}}
    assert len(shown["images"]) == 1
