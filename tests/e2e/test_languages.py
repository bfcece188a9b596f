"""The nodes in another language, in the host's own frontend: chosen as its user does, in the settings."""

from __future__ import annotations

import json

import pytest
from e2e.frontend import change_setting, complaints, load, photograph, wait_until_ready
from e2e.shipped import FOLDER, read_workflow

LOCALES = FOLDER.parent / "locales"


@pytest.fixture
def speak(page):
    """`speak(language)`: from now on, until the test ends."""

    def choose(language: str) -> None:
        change_setting(page, "Comfy.Locale", language)
        page.reload()
        wait_until_ready(page)

    yield choose
    choose("en")


@pytest.mark.parametrize("language", ["ja", "zh", "pt-BR"])
def test_the_nodes_speak_the_language_of_the_frontend(language, speak, page, pictures):
    speak(language)
    words = json.loads((LOCALES / language / "nodeDefs.json").read_text())
    load(page, read_workflow("demo_wan_tiny_paper"))
    shown = {node["type"]: node for node in page.evaluate(SHOWN)}
    for kind in ("AdaCacheApply", "AdaCacheCodebook", "AdaCacheMoReg", "AdaCacheDemoModel"):
        assert shown[kind]["title"] == words[kind]["display_name"]
    page.evaluate("void (window.made = app.graph.nodes.find(node => node.type == 'AdaCacheApply'))")
    inputs = words["AdaCacheApply"]["inputs"]
    assert shown["AdaCacheApply"]["labels"]["speedup"] == inputs["speedup"]["name"]
    assert shown["AdaCacheApply"]["labels"]["codebook"] == inputs["codebook"]["name"]
    said = json.loads((LOCALES / language / "main.json").read_text())["AdaCache"]
    assert page.evaluate(f"{STRIP}.element.innerText") == f"{said['noRun']}\n{said['noRunMore']}"
    assert page.evaluate("made.widgets[0].options.getOptionLabel('fast')") == said["preset fast"]
    label = "app.extensionManager.command.commands.find(each => each.id == 'AdaCache.SpeedUp').label"
    assert page.evaluate(label) == said["speedUp"]
    assert complaints(page) == []
    photograph(page, pictures / f"language_{language}.png")


STRIP = "made.widgets.find(each => each.name == 'timeline')"
SHOWN = """app.graph.nodes.map(node => ({
    type: node.type,
    title: node.title,
    labels: Object.fromEntries([...node.inputs, ...(node.widgets ?? [])].map(each =>
        [each.name, each.label ?? each.localized_name ?? each.name])),
}))"""
