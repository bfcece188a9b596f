"""Somebody who wants a faster video model and has never heard of AdaCache, in the frontend's search for nodes."""

from __future__ import annotations

import pytest
from e2e.frontend import EMPTY, complaints, load

FOUND = "[...document.querySelectorAll('#results-list [role=option]')].map(each => each.innerText.split('\\n')[0])"


@pytest.mark.parametrize("words", ["faster", "speed", "speed up", "acceleration", "skip steps", "cache"])
def test_what_people_type_finds_the_node(words, page, object_info):
    if "search_aliases" not in object_info["AdaCacheApply"]:
        pytest.skip("this ComfyUI searches the names of nodes only")
    load(page, EMPTY)
    page.evaluate("void app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("document.activeElement?.tagName == 'INPUT'")
    page.keyboard.insert_text(words)
    page.wait_for_function(f"{FOUND}.slice(0, 5).includes('AdaCache')", timeout=10_000)
    page.evaluate("void app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("document.activeElement?.tagName != 'INPUT'")
    assert complaints(page) == []


def test_every_node_says_what_people_look_for_who_do_not_know_its_name(object_info):
    nodes = {name: info for name, info in object_info.items() if name.startswith("AdaCache")}
    assert nodes
    if "search_aliases" in nodes["AdaCacheApply"]:
        assert [name for name, info in nodes.items() if not info["search_aliases"]] == []
    assert nodes["AdaCacheApply"]["description"].startswith("Makes video models faster")
