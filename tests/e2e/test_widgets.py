"""How the widgets of the nodes look: those that do nothing are grey, and presets are called what they are."""

from __future__ import annotations

import pytest
from e2e.frontend import EMPTY, NODES_2_0_SETTING, change_setting, complaints, load, photograph, serialized
from playwright.sync_api import Page

FACTS = """Object.fromEntries(made.widgets.filter(each => each.name != "timeline")
    .map(each => [each.name, each.disabled === true]))"""
INSIDE = ["probe_position", "cache_device"]  # what only those use that look inside of the model
AUTO = [*INSIDE, "closeness"]
ENDS = ["start_percent", "end_percent"]


@pytest.fixture
def put(page: Page):
    """`put(type)`: a new node on an empty canvas, as `made` in the page."""

    def put(kind: str) -> None:
        load(page, EMPTY)
        page.evaluate("kind => { window.made = LiteGraph.createNode(kind); app.graph.add(made) }", kind)

    return put


def choose(page: Page, widget: str, value: str) -> None:
    """As the menu of the widget does."""
    page.evaluate(
        """([name, value]) => {
            const widget = made.widgets.find(each => each.name == name)
            widget.setValue ? widget.setValue(value, { e: {}, node: made, canvas: app.canvas })
                : (widget.value = value, widget.callback(widget.value))
        }""",
        [widget, value],
    )


def connect(page: Page, kind: str, slot: str) -> None:
    page.evaluate(
        """([kind, slot]) => {
            const other = LiteGraph.createNode(kind)
            app.graph.add(other)
            other.connect(0, made, made.findInputSlot(slot))
        }""",
        [kind, slot],
    )


def grey(page: Page) -> list[str]:
    return [name for name, idle in page.evaluate(FACTS).items() if idle]


@pytest.mark.parametrize(
    ("preset", "idle"),
    [
        ("auto", AUTO),
        ("quality", ["speedup", *INSIDE]),
        ("fast", ["speedup", "closeness"]),
        ("slow", ["speedup", "closeness"]),
        ("watch", ["speedup", "closeness"]),
        ("off", ["speedup", *ENDS, *AUTO]),
    ],
)
def test_what_does_nothing_with_a_preset_is_grey(preset, idle, put, page, pictures):
    put("AdaCacheApply")
    assert grey(page) == AUTO, "auto"
    choose(page, "preset", preset)
    assert grey(page) == idle
    photograph(page, pictures / f"grey_{preset}.png", "[made]", 700, 800)
    choose(page, "preset", "auto")
    assert grey(page) == AUTO


def test_a_codebook_wakes_what_it_uses_and_speedup_sleeps(put, page):
    put("AdaCacheApply")
    connect(page, "AdaCacheCodebook", "codebook")
    assert grey(page) == ["speedup", "closeness"]
    page.evaluate("made.disconnectInput(made.findInputSlot('codebook'))")
    assert grey(page) == AUTO


@pytest.mark.parametrize("preset", ["auto", "quality"])
def test_a_schedule_takes_the_place_of_speedup_and_closeness(preset, put, page):
    put("AdaCacheApply")
    choose(page, "preset", preset)
    connect(page, "AdaCacheSchedule", "schedule")
    assert grey(page) == ["speedup", *AUTO]


def test_a_preset_that_comes_from_elsewhere_leaves_all_awake(put, page):
    put("AdaCacheApply")
    assert grey(page) == AUTO
    connect(page, "PrimitiveNode", "preset")
    assert grey(page) == []


def test_codebook_and_moreg_say_so_too(put, page):
    put("AdaCacheCodebook")
    assert grey(page) == ["text"]
    choose(page, "table", "custom")
    assert grey(page) == []
    put("AdaCacheMoReg")
    assert grey(page) == ENDS
    choose(page, "window", "custom")
    choose(page, "form", "paper")
    assert grey(page) == ["pivot", "power", "divisor", "gradient"]


def test_presets_are_called_what_they_are_and_saved_as_they_were(put, page):
    put("AdaCacheApply")
    preset = "made.widgets.find(each => each.name == 'preset')"
    labels = page.evaluate(f"{preset}.options.values.map(each => [each, {preset}.options.getOptionLabel(each)])")
    assert labels == [
        ["auto", "auto"],
        ["quality", "quality"],
        ["off", "off"],
        ["fast", "fast (paper)"],
        ["slow", "slow (paper)"],
        ["watch", "watch (to calibrate)"],
    ]
    choose(page, "preset", "fast")
    assert serialized(page)["nodes"][0]["widgets_values"][0] == "fast"
    if page.evaluate(f"'_displayValue' in {preset}"):
        assert page.evaluate(f"{preset}._displayValue") == "fast (paper)"
    assert complaints(page) == []


def test_nodes_2_0_show_both(put, page, pictures):
    put("AdaCacheApply")
    choose(page, "preset", "fast")
    change_setting(page, NODES_2_0_SETTING, True)
    try:
        node = page.locator("[data-node-id]").filter(has_text="fast (paper)")
        node.locator("input:disabled, [aria-disabled=true], [data-disabled]").first.wait_for()
        photograph(page, pictures / "grey_nodes_2.png", "[made]", 700, 800)
    finally:
        change_setting(page, NODES_2_0_SETTING, False)
