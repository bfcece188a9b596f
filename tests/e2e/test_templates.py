"""What the pack puts into the frontend's menus: its templates with their thumbnails, and its subgraph blueprint."""

from __future__ import annotations

import json

import pytest
from e2e.frontend import EMPTY, complaints, load, photograph, wait_for_nodes
from e2e.shipped import FOLDER, WORKFLOWS, read_workflow
from PIL import Image

from tools.server import PACK

BLUEPRINT = "Video with AdaCache"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_thumbnail_is_small_square_and_no_two_are_alike(name):
    own = FOLDER / f"{name}.jpg"
    with Image.open(own) as picture:
        assert picture.size == (400, 400)
    assert own.stat().st_size < 60_000
    assert [other for other in FOLDER.glob("*.jpg") if other.read_bytes() == own.read_bytes()] == [own]


def test_the_template_browser_shows_every_workflow_with_its_thumbnail_and_opens_it(page, pictures):
    load(page, EMPTY)
    page.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK, exact=True).click()
    page.wait_for_function(
        "count => [...document.images].filter(each => each.naturalWidth == 400).length == count", arg=len(WORKFLOWS)
    )
    shown = page.get_by_role("dialog").inner_text().split()
    assert set(WORKFLOWS) <= set(shown)
    page.screenshot(path=pictures / "templates.png")
    page.get_by_text("demo_two_videos", exact=True).click()
    wait_for_nodes(page, read_workflow("demo_two_videos"))
    assert complaints(page) == []


def test_the_blueprint_is_found_by_its_name_and_put_down(page):
    load(page, EMPTY)
    page.evaluate("void app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_function("document.activeElement?.tagName == 'INPUT'")
    page.keyboard.insert_text(BLUEPRINT)
    page.wait_for_function("name => document.body.innerText.includes(name)", arg=BLUEPRINT)
    page.keyboard.press("Enter")
    page.mouse.click(700, 500)
    page.wait_for_function("app.graph.nodes.length == 1")
    page.wait_for_function("app.graph.nodes[0].widgets.length > 5")
    widgets = page.evaluate("app.graph.nodes[0].widgets.map(each => [each.name, each.value])")
    named = {name.split(": ")[-1]: value for name, value in widgets}  # frontend 1.35 puts the inner node's id before it
    assert named == {"preset": "auto", "speedup": 2, "seed": 1, "steps": 30, "cfg": 6, "denoise": 1} | {
        "sampler_name": "euler",
        "scheduler": "simple",
    }
    assert complaints(page) == []


def test_the_blueprint_makes_a_video(page, pictures):
    load(page, around(blueprint()))
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(
        "app.graph.nodes.some(node => node.type == 'SaveImage' && node.imgs?.[0]?.naturalWidth)", timeout=300_000
    )
    photograph(page, pictures / "blueprint.png")
    assert complaints(page) == []


def blueprint() -> dict:
    (file,) = (FOLDER.parent / "subgraphs").glob("*.json")
    assert file.stem == BLUEPRINT
    return json.loads(file.read_text())


def around(blueprint: dict) -> dict:
    """A workflow: the blueprint between the nodes of the demo that it needs, and its picture saved."""
    (outer,) = blueprint["nodes"]
    demo = read_workflow("demo_wan_tiny")
    feeding = {"model": "AdaCacheDemoModel", "positive": "Prompt", "negative": "Empty prompt"}
    feeding["latent_image"] = "EmptyHunyuanLatentVideo"
    nodes, links = [outer | {"id": 100}], []
    for slot, entry in enumerate(outer["inputs"]):
        node = next(each for each in demo["nodes"] if feeding[entry["name"]] in (each["type"], each.get("title")))
        (output,) = node["outputs"]
        output["links"], entry["link"] = [slot + 1], slot + 1
        links.append([slot + 1, node["id"], 0, 100, slot, entry["type"]])
        nodes.append(node)
    save = {"id": 101, "type": "SaveImage", "pos": [1400, 0], "size": [270, 320], "flags": {}, "order": 9, "mode": 0}
    save |= {"inputs": [{"name": "images", "type": "IMAGE", "link": 9}], "outputs": [], "properties": {}}
    save |= {"widgets_values": ["schedule"]}
    outer["outputs"][1]["links"] = [9]
    links.append([9, 100, 1, save["id"], 0, "IMAGE"])
    return blueprint | {"nodes": [*nodes, save], "links": links, "last_node_id": 101, "last_link_id": 9}


def test_the_blueprint_has_the_names_of_the_nodes_and_of_the_pack(object_info):
    """The frontend takes what it does not know without a word."""
    (outer,), (inner,) = blueprint()["nodes"], blueprint()["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    nodes = {str(node["id"]): node for node in inner["nodes"]}
    for node, widget in outer["properties"]["proxyWidgets"]:
        info = object_info[nodes[node]["type"]]["input"]
        assert widget in info["required"] | info.get("optional", {})
    for node in nodes.values():
        assert node["properties"]["cnr_id"] == ("adacache" if node["type"].startswith("AdaCache") else "comfy-core")
