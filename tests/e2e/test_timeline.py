"""The timeline in the node, in the host's own frontend: it grows while the model samples, is read, and stays."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
from e2e.frontend import (
    NODES_2_0_SETTING,
    change_setting,
    complaints,
    load,
    photograph,
    prompt,
    read,
    serialized,
    wait_until_ready,
)
from e2e.shipped import read_workflow, with_report, with_steps

from adacache_core import RunReport
from adacache_core.closeness import GOOD

STEPS = 24  # of its own: what another test has just sampled, the host would take from its cache; too many for a note
APPLY, INSPECTOR = "AdaCacheApply", "AdaCacheInspector"
BOTH = "app.graph.nodes.filter(node => /AdaCacheApply|AdaCacheInspector/.test(node.type))"

# In the page: the strip of the one node of a type, and the states of its bars.
HELPERS = """() => {
    window.nodeOf = type => app.graph.nodes.find(node => node.type == type)
    window.stripOf = type => nodeOf(type)?.widgets?.find(widget => widget.name == "timeline")?.element
    window.barsOf = type => stripOf(type).querySelector(".bars")
    window.textOf = type => [...stripOf(type).querySelectorAll("p:not([hidden]) > span")]
        .map(line => line.textContent).join("\\n")
    window.statesOf = type => [...barsOf(type).children].map(bar => bar.classList[0] ?? "").filter(Boolean)
}"""

# What is shown each time that something was told: who listens first, the pack, is called first.
WATCH = """
    window.seen = []
    app.api.addEventListener("adacache.timeline", () =>
        seen.push([statesOf("AdaCacheApply"), statesOf("AdaCacheInspector"), textOf("AdaCacheApply")]))
"""

# What the strip calls the reasons of preset auto.
REASONS = {
    "first step": "the first step",
    "last steps": "one of the last steps",
    "below tolerance": "the forecast is close enough",
    "tolerance reached": "the forecast would be too far off",
    "far from the last computed step": "too far from the last computed step",
}

FINISHED = "app.graph.nodes.find(node => node.widgets?.some(each => /adacache.report/.test(each.value)))"


@dataclass
class Sampled:
    """A run that was watched.

    Attributes:
        report: as the workflow shows it, in full.
        seen: after each message: the bars of the node, those of the inspector, the text.
        complaints: what the frontend complained about meanwhile.
    """

    report: RunReport
    seen: list[tuple[list[str], list[str], str]]
    complaints: list[str]

    @property
    def states(self) -> list[str]:
        return [record.state for record in self.report.evaluations]


@pytest.fixture(scope="module")
def sampled(page) -> Sampled:
    load(page, with_steps(with_report(read_workflow("demo_wan_tiny")), STEPS))
    page.evaluate(HELPERS)
    page.evaluate(WATCH)
    assert states(page, APPLY) == []
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(FINISHED, timeout=300_000)
    text = page.evaluate(f"{FINISHED}.widgets.find(each => /adacache.report/.test(each.value)).value")
    return Sampled(RunReport.from_json(text), page.evaluate("seen"), complaints(page))


def states(page, kind: str) -> list[str]:
    return page.evaluate(f"statesOf('{kind}')")


def text(page, kind: str = APPLY) -> str:
    return page.evaluate(f"textOf('{kind}')")


def is_seen(page, kind: str) -> bool:
    """Whether the strip is what is on the screen where it should be, once its node is in the middle."""
    page.evaluate(
        f"app.canvas.ds.scale = 1; app.canvas.centerOnNode(nodeOf('{kind}')); app.canvas.setDirty(true, true)"
    )
    page.wait_for_function(f"barsOf('{kind}').getBoundingClientRect().width > 100")
    page.wait_for_timeout(500)
    return page.evaluate(
        f"""(() => {{
            const {{ x, y, width, height }} = barsOf('{kind}').getBoundingClientRect()
            const top = document.elementFromPoint(x + width / 2, y + height / 2)
            return height > 20 && barsOf('{kind}').contains(top)
        }})()"""
    )


def reload(page) -> None:
    page.reload()
    wait_until_ready(page)
    page.wait_for_function("app.graph.nodes.some(node => node.type == 'AdaCacheInspector')")
    page.evaluate(HELPERS)


def test_the_strip_grows_evaluation_by_evaluation_in_the_node_and_in_its_inspector(sampled):
    assert [len(bars) for bars, _, _ in sampled.seen] == [*range(1, STEPS + 1), STEPS]
    for bars, inspectors, _ in sampled.seen[:-1]:
        assert bars == inspectors == sampled.states[: len(bars)]


def test_its_text_counts_what_was_computed_and_what_is_left(sampled):
    for bars, _, said in sampled.seen:
        assert said.startswith(f"{sum(state != 'reused' for state in bars)} of {len(bars)} computed")
    assert "left" in sampled.seen[STEPS // 2][2]
    last = sampled.seen[-1][2]
    assert "left" not in last
    assert f"{sampled.report.measured_speedup:.2f}x faster" in last
    assert sampled.report.preset in last


def test_after_the_run_both_nodes_show_what_the_report_says_and_nothing_was_complained_about(page, sampled, pictures):
    assert states(page, APPLY) == states(page, INSPECTOR) == sampled.states
    assert is_seen(page, APPLY)
    assert is_seen(page, INSPECTOR)
    assert sampled.complaints == []
    photograph(page, pictures / "timeline.png", BOTH)


def test_how_close_the_video_is_expected_to_be_is_said_once_it_is_finished(page, sampled):
    expected = sampled.report.expected
    whole = f"expected: {expected.db:.0f} dB close ({expected.low:.0f} to {expected.high:.0f}), {expected.words}"
    assert all("expected" not in said for _, _, said in sampled.seen[:-1])
    assert text(page).splitlines()[-1] == text(page, INSPECTOR).splitlines()[-1] == whole
    others = [f"{mark}: about {count} of {STEPS} computed" for mark, count in sampled.report.would_take.items()]
    hover = page.evaluate(f"stripOf('{APPLY}').querySelector('p:not([hidden])').lastChild.title")
    assert hover.splitlines() == [whole, *others]
    assert fits(page)


def test_the_numbers_of_every_evaluation_are_read_with_the_arrow_keys(page, sampled):
    assert is_seen(page, APPLY)
    page.evaluate(f"barsOf('{APPLY}').focus()")
    for record in sampled.report.evaluations:
        said = text(page)
        assert page.evaluate(f"barsOf('{APPLY}').getAttribute('aria-valuetext')") == said.replace("\n", "; ")
        assert page.evaluate(f"barsOf('{APPLY}').getAttribute('aria-valuenow')") == str(record.index)
        assert f"step {record.step} · {record.state} · noise level {float(f'{record.sigma:.4g}'):g}" in said
        assert REASONS[record.reason] in said
        assert record.metric is None or f"changed by {float(f'{record.metric:.4g}'):g} a step" in said
        assert record.rate is None or f"one step in {record.rate} is computed" in said
        off = re.search(r"forecast off by ([\d.]+) %", said)
        assert (off is None) == (record.error is None)
        assert off is None or float(off[1]) == pytest.approx(100 * record.error, abs=0.6)
        page.keyboard.press("ArrowRight")
    page.evaluate("document.activeElement.blur()")
    assert "computed" in text(page).splitlines()[0]


def test_the_numbers_under_the_pointer_are_read(page, sampled):
    is_seen(page, APPLY)
    box = page.evaluate(f"barsOf('{APPLY}').getBoundingClientRect().toJSON()")
    for index in (0, 3, STEPS - 1):
        x = box["x"] + (index + 0.5) / STEPS * box["width"]
        page.mouse.move(x, box["y"] + 5)
        assert text(page).startswith(f"step {index} · {sampled.states[index]}")
    page.mouse.move(0, 0)
    assert text(page).startswith(f"{sampled.report.computed} of {STEPS} computed")


def test_the_wheel_zooms_the_canvas_over_the_strip_too(page, sampled):
    is_seen(page, APPLY)
    box = page.evaluate(f"barsOf('{APPLY}').getBoundingClientRect().toJSON()")
    page.mouse.move(box["x"] + 20, box["y"] + 9)
    page.mouse.wheel(0, -120)
    page.wait_for_function("app.canvas.ds.scale > 1")


def test_the_workflow_and_the_prompt_know_nothing_of_it(page, sampled):
    shown = {node["id"]: node for node in serialized(page)["nodes"]}
    for node in read_workflow("demo_wan_tiny")["nodes"]:
        if node["type"] in (APPLY, INSPECTOR):
            assert shown[node["id"]]["properties"] == node["properties"]
            values, saved = shown[node["id"]].get("widgets_values") or [], node["widgets_values"]
            assert values in (saved, [*saved, GOOD]), "with what was saved before there was closeness comes its default"
    assert not any("timeline" in node["inputs"] for node in prompt(page).values())


def test_a_collapsed_node_shows_none(page, sampled):
    page.evaluate(f"nodeOf('{APPLY}').collapse(); app.canvas.setDirty(true, true)")
    page.wait_for_function(f"barsOf('{APPLY}').getBoundingClientRect().height == 0")
    page.evaluate(f"nodeOf('{APPLY}').collapse(); app.canvas.setDirty(true, true)")
    assert is_seen(page, APPLY)


def test_the_strip_stays_in_the_node_when_the_right_panel_shows_it(page, sampled):
    page.evaluate(f"app.canvas.selectItems([nodeOf('{APPLY}')])")
    panel = page.get_by_label("Toggle properties panel")
    if not panel.count():
        pytest.skip("this frontend has no panel for a node's parameters")
    panel.click()
    page.wait_for_function("document.body.innerText.includes('INPUTS')")
    assert is_seen(page, APPLY)
    wide, node = page.evaluate(f"[barsOf('{APPLY}').getBoundingClientRect().width, nodeOf('{APPLY}').size[0]]")
    panel.click()
    assert node - 40 < wide < node


def test_after_the_page_was_reloaded_it_is_shown_as_the_last_run(page, sampled, pictures):
    said = text(page)
    reload(page)
    page.wait_for_function(f"statesOf('{APPLY}').length == {STEPS}")
    assert states(page, APPLY) == states(page, INSPECTOR) == sampled.states
    first, *_ = said.splitlines()
    expected = sampled.report.expected
    assert text(page).startswith(f"Last run: {first}")
    assert text(page).endswith(f"expected: {expected.words} ({expected.db:.0f} dB)")
    assert float(page.evaluate(f"getComputedStyle(barsOf('{APPLY}')).opacity")) < 0.5
    photograph(page, pictures / "timeline_last_run.png", BOTH)


def test_with_other_settings_it_is_not_shown(page, sampled):
    kept = serialized(page)
    other = json.loads(json.dumps(kept))
    next(node for node in other["nodes"] if node["type"] == APPLY)["widgets_values"][1] = 3.5
    load(page, other)
    assert states(page, APPLY) == states(page, INSPECTOR) == []
    assert text(page).startswith("No run yet")
    load(page, kept)
    assert states(page, APPLY) == sampled.states


def show(page, **changes: object) -> None:
    """The run that is shown, changed, as if it were another one."""
    page.evaluate(
        """changes => {
            const { id } = nodeOf("AdaCacheApply")
            const shown = Object.values(JSON.parse(localStorage["AdaCache.timelines"])).at(-1)[id]
            const detail = { ...shown, node: String(id), workflow: app.graph.id, run: "another", ...changes }
            app.api.dispatchEvent(new CustomEvent("adacache.timeline", { detail }))
        }""",
        changes,
    )


def fits(page, strip: str = f"stripOf('{APPLY}')") -> bool:
    """Whether all lines are seen in full and in the strip."""
    whole = page.evaluate(
        f"""[...{strip}.querySelectorAll("p:not([hidden]) > span")]
            .every(line => line.scrollHeight <= line.clientHeight && line.scrollWidth <= line.clientWidth)"""
    )
    last, end = page.evaluate(
        f"[{strip}.querySelector('p:not([hidden])'), {strip}].map(each => each.getBoundingClientRect().bottom)"
    )
    return whole and last <= end + 1


def test_a_long_note_wraps_and_stays_in_the_strip(page, sampled):
    note = "of many words, all of which are read without pointing at them, because they wrap where the node ends"
    show(page, note=note, closeness=None)
    assert text(page).endswith(note)
    assert is_seen(page, APPLY)
    assert fits(page)


def test_a_note_leaves_room_for_how_close_the_video_is_expected_to_be(page, sampled, pictures):
    note = "2x would change this video visibly, so AdaCache aims at about 1.5x"
    close = {"db": 15.6, "low": 8, "high": 23, "words": "visible differences"}
    show(page, note=note, closeness=close)
    assert text(page).splitlines()[1:] == [note, "expected: visible differences (16 dB)"]
    assert is_seen(page, APPLY)
    assert fits(page)
    photograph(page, pictures / "timeline_note.png", BOTH)


def test_nodes_2_0_show_it_just_so(page, sampled, pictures):
    change_setting(page, NODES_2_0_SETTING, True)
    try:
        page.wait_for_function(f"barsOf('{APPLY}').closest('[data-node-id]')")
        assert is_seen(page, APPLY)
        assert is_seen(page, INSPECTOR)
        assert states(page, APPLY) == states(page, INSPECTOR) == sampled.states
        assert page.evaluate(f"barsOf('{INSPECTOR}').getBoundingClientRect().height / app.canvas.ds.scale") <= 60.5
        photograph(page, pictures / "timeline_nodes_2.png", BOTH)
    finally:
        change_setting(page, NODES_2_0_SETTING, False)
    page.wait_for_function(f"!barsOf('{APPLY}').closest('[data-node-id]')")
    assert is_seen(page, APPLY)


def test_a_browser_that_knows_nothing_gets_it_from_the_hosts_cache(page, sampled):
    page.evaluate("localStorage.removeItem('AdaCache.timelines')")
    reload(page)
    assert states(page, APPLY) == []
    page.evaluate(WATCH)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(f"statesOf('{APPLY}').length == {STEPS}", timeout=120_000)
    assert states(page, APPLY) == states(page, INSPECTOR) == sampled.states
    assert page.evaluate("seen") == [], "nothing was sampled"
    assert complaints(page) == []


def test_another_workflow_with_the_same_nodes_does_not_show_it(page, sampled):
    other = with_steps(with_report(read_workflow("demo_wan_tiny")), STEPS)
    load(page, other | {"id": "00000000-0000-4000-8000-000000000001"})
    assert states(page, APPLY) == []
    assert text(page).startswith("No run yet")


OUTER = "made.widgets.find(widget => widget.type == 'adacache_timeline')?.element"
OUTER_STATES = f"[...{OUTER}.querySelector('.bars').children].map(bar => bar.classList[0] ?? '').filter(Boolean)"


def test_in_a_subgraph_the_inner_node_shows_it_and_the_subgraph_outside(page, sampled, pictures):
    page.evaluate(
        f"""(() => {{
            const {{ node }} = app.graph.convertToSubgraph(new Set([nodeOf('{APPLY}')]))
            window.made = node
            window.nodeOf = type => node.subgraph.nodes.find(each => each.type == type)
        }})()"""
    )
    assert page.evaluate(f"!{OUTER}"), "before a run there is nothing to show"
    saved, height = serialized(page), page.evaluate("made.size[1]")
    before = prompt(page)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(f"statesOf('{APPLY}').length == {STEPS}", timeout=120_000)
    assert page.evaluate(OUTER_STATES) == states(page, APPLY) == sampled.states
    assert page.evaluate("made.size[1]") > height + 80
    after = serialized(page)
    assert [node["size"] for node in after["nodes"]] == [node["size"] for node in saved["nodes"]]
    assert [node.get("widgets_values") for node in after["nodes"]] == [
        node.get("widgets_values") for node in saved["nodes"]
    ]
    assert prompt(page) == before
    for nodes_2 in (False, True):
        change_setting(page, NODES_2_0_SETTING, nodes_2)
        page.wait_for_function(f"nodes2 => Boolean({OUTER}.closest('[data-node-id]')) == nodes2", arg=nodes_2)
        assert fits(page, OUTER)
        photograph(page, pictures / f"timeline_outside_{'nodes_2' if nodes_2 else 'classic'}.png", "[made]", 500, 500)
        assert page.evaluate(
            f"""(() => {{
                const bars = {OUTER}.querySelector(".bars"), {{ x, y, width, height }} = bars.getBoundingClientRect()
                return width > 100 && height > 20
                    && bars.contains(document.elementFromPoint(x + width / 2, y + height / 2))
            }})()"""
        )
    change_setting(page, NODES_2_0_SETTING, False)
    page.wait_for_function(f"!{OUTER}.closest('[data-node-id]')")
    page.evaluate("void app.canvas.setGraph(made.subgraph)")
    assert is_seen(page, APPLY)


def test_after_a_reload_the_subgraph_shows_it_as_the_last_run(page, sampled):
    number = page.evaluate("app.canvas.setGraph(app.rootGraph), made.id")
    page.wait_for_function("app.canvas.graph == app.rootGraph")
    load(page, read(page, "app.rootGraph.serialize()"))
    page.evaluate(f"void (window.made = app.graph.getNodeById({number}))")
    assert page.evaluate(OUTER_STATES) == sampled.states
    assert page.evaluate(f"{OUTER}.innerText").startswith("Last run: ")


def test_without_its_node_the_subgraph_has_no_strip(page, sampled):
    height = page.evaluate("made.size[1]")
    page.evaluate(f"made.subgraph.remove(made.subgraph.nodes.find(node => node.type == '{APPLY}'))")
    page.wait_for_function(f"!{OUTER}", timeout=10_000)
    assert page.evaluate("made.size[1]") < height - 80
    assert complaints(page) == []
