"""The shipped workflows in the host's own frontend, in a real browser: loaded, turned into prompts, run, seen."""

from __future__ import annotations

from io import BytesIO

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from e2e.frontend import (
    NODES_2_0_SETTING,
    change_setting,
    complaints,
    load,
    photograph,
    prompt,
    serialized,
    skip_unless_nodes_2_0_are_as_now,
    wait_for_nodes,
)
from e2e.shipped import DEMOS, LATEST, read_workflow, with_report, with_steps
from PIL import Image

from adacache_core.tell.canvas import SMALL
from adacache_core.tell.picture import SERIES

BAR = SERIES[0][0]  # the colour of a computed step


def test_every_workflow_loads_without_a_missing_node_or_an_error(page, workflow, workflow_name, pictures):
    load(page, workflow)
    unknown = page.evaluate(
        "app.graph.nodes.map(node => node.type).filter(type => !LiteGraph.registered_node_types[type])"
    )
    assert unknown == []
    assert complaints(page) == []
    photograph(page, pictures / f"{workflow_name}_opened.png")


def test_what_is_loaded_is_what_the_file_says(page, workflow):
    """Of the last widgets of core nodes an older host knows fewer."""
    load(page, workflow)
    shown = {node["id"]: node for node in serialized(page)["nodes"]}
    for node in workflow["nodes"]:
        assert shown[node["id"]]["type"] == node["type"]
        values = shown[node["id"]].get("widgets_values") or []
        assert values == node["widgets_values"][: len(values)]
        assert bool(values) == bool(node["widgets_values"])
        assert shown[node["id"]]["properties"] == node["properties"]
    assert page.evaluate("app.graph.links.size") == len(workflow["links"])


def test_the_frontend_makes_the_same_prompt_as_comfy_cli(page, workflow, object_info):
    load(page, workflow)
    made, other = prompt(page), convert_ui_to_api(workflow, object_info)
    assert made.keys() == other.keys()
    for node, each in other.items():
        assert made[node]["class_type"] == each["class_type"]
        assert {name: made[node]["inputs"].get(name) for name in each["inputs"]} == each["inputs"]


@pytest.mark.parametrize("name", DEMOS)
def test_in_a_demo_no_wire_runs_behind_a_node(name, page):
    load(page, read_workflow(name))
    see_everything(page)
    page.wait_for_function("count => app.canvas.renderedPaths.size >= count", arg=len(read_workflow(name)["links"]))
    assert page.evaluate(HIDDEN) == []


@pytest.mark.parametrize("name", [*DEMOS, *LATEST])
@pytest.mark.parametrize("nodes_2", [False, True])
def test_no_node_is_drawn_out_of_its_group(name, nodes_2, page):
    """The frontend makes nodes as large as they have to be, whatever size was saved with them."""
    if nodes_2:
        skip_unless_nodes_2_0_are_as_now(page)
    load(page, read_workflow(name))
    change_setting(page, NODES_2_0_SETTING, nodes_2)
    try:
        see_everything(page)
        page.locator("[data-node-id]").first.wait_for(state="attached" if nodes_2 else "detached")
        page.wait_for_timeout(1_500)
        assert page.evaluate(SPILLED) == []
    finally:
        change_setting(page, NODES_2_0_SETTING, False)


# Nodes that cross the edge of a group, by how many pixels. Collapsed ones Nodes 2.0 make wider than their titles.
SPILLED = """app.graph.nodes.flatMap(node => {
    const [left, top, width, height] = node.boundingRect, drawn = document.querySelector(`[data-node-id="${node.id}"]`)
    if (drawn && node.flags.collapsed) return []
    const box = drawn?.getBoundingClientRect(), { scale } = app.canvas.ds
    const right = left + (box ? box.width / scale : width), low = top + (box ? box.height / scale : height)
    return app.graph.groups.flatMap(({ title, pos: [x, y], size: [wide, high] }) => {
        const apart = right <= x || x + wide <= left || low <= y || y + high <= top
        const over = Math.max(x - left, y - top, right - x - wide, low - y - high)
        return apart || over <= 0 ? [] : [`${node.title} out of ${title} by ${over.toFixed()}`]
    })
})"""


# Nodes over which a wire runs, away from their edges, which their own wires touch. Points are as far apart as wires are
# made wide here, so that none slips through.
HIDDEN = """(() => {
    const pen = document.createElement("canvas").getContext("2d"), over = []
    pen.lineWidth = 16
    for (const node of app.graph.nodes) {
        const [left, top, width, height] = node.boundingRect
        for (let x = left + 16; x < left + width - 16; x += 15)
            for (let y = top + 10; y < top + height - 10; y += 15)
                for (const wire of app.canvas.renderedPaths)
                    if (wire.path && pen.isPointInStroke(wire.path, x, y)) over.push(`${node.title} at ${x}, ${y}`)
    }
    return over
})()"""


@pytest.mark.parametrize("name", DEMOS)
def test_after_a_run_the_videos_and_the_inspectors_picture_are_seen(name, page, pictures):
    workflow = with_report(read_workflow(name))
    load(page, workflow)
    assert not seen(page, "AdaCacheApply", BAR)
    see_everything(page)
    page.evaluate("app.queuePrompt(0)")
    shown = "app.graph.nodes.filter(node => node.imgs?.length == 1 && node.imgs[0].naturalWidth)"
    for kind in ("AdaCacheCompare", "SaveAnimatedWEBP", "PreviewImage"):
        count = sum(node["type"] == kind for node in workflow["nodes"])
        page.wait_for_function(f"{shown}.filter(node => node.type == '{kind}').length == {count}", timeout=300_000)
    page.wait_for_function(f"{shown}.some(node => node.type == 'AdaCacheInspector')")
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    assert seen(page, "AdaCacheApply", BAR)
    assert seen(page, "AdaCacheInspector", BAR)
    assert complaints(page) == []
    photograph(page, pictures / f"{name}.png", "app.graph.nodes.filter(node => node.pos[1] < 900)")


def test_a_new_inspectors_picture_can_be_read_in_nodes_2_0(page, pictures):
    workflow = with_steps(read_workflow("demo_wan_tiny"), 8)
    for node in workflow["nodes"]:
        if node["type"] == "AdaCacheInspector":
            node |= {"flags": {}, "pos": [0, 900]}
            del node["size"]  # as it is when it is put down
    load(page, workflow)
    change_setting(page, NODES_2_0_SETTING, True)
    inspector = "app.graph.nodes.find(node => node.type == 'AdaCacheInspector')"
    drawn = f"document.querySelector(`[data-node-id='${{{inspector}.id}}']`)"
    image = f"{drawn}?.querySelector('.image-preview img')"
    try:
        page.evaluate("app.queuePrompt(0)")
        page.evaluate(f"app.canvas.ds.scale = 1, app.canvas.centerOnNode({inspector}), app.canvas.setDirty(true, true)")
        page.wait_for_function(f"{image}?.naturalWidth", timeout=300_000)
        page.wait_for_timeout(1_000)
        page.screenshot(path=pictures / "inspector_nodes_2.png")
        width, height, whole, high = page.evaluate(
            f"[{image}.clientWidth, {image}.clientHeight, {image}.naturalWidth, {image}.naturalHeight]"
        )
        assert SMALL * width / 1000 >= 10, "pixels of its smallest letters"
        assert height == pytest.approx(width * high / whole, abs=2)
        assert page.evaluate(f"{image}.getBoundingClientRect().bottom < {drawn}.getBoundingClientRect().bottom")
        assert complaints(page) == []
    finally:
        change_setting(page, NODES_2_0_SETTING, False)


def test_a_saved_clip_with_its_report_opens_as_its_workflow(page):
    workflow = with_steps(read_workflow("demo_wan_tiny"), 8)
    load(page, workflow)
    see_everything(page)
    page.evaluate("app.queuePrompt(0)")
    clip = "app.graph.nodes.find(node => node.type == 'AdaCacheCompare' && node.imgs?.[0]?.naturalWidth)"
    page.wait_for_function(clip, timeout=300_000)
    page.evaluate(f"fetch({clip}.imgs[0].src).then(answer => answer.blob()).then(blob => {{ window.clip = blob }})")
    assert page.evaluate("clip.text().then(text => text.includes('adacache.report'))")
    page.evaluate("app.graph.clear()")
    page.evaluate("app.handleFile(new File([clip], 'clip.webp', { type: 'image/webp' }))")
    wait_for_nodes(page, workflow)
    assert {node["id"] for node in serialized(page)["nodes"]} == {node["id"] for node in workflow["nodes"]}
    assert complaints(page) == []


def see_everything(page) -> None:
    """What is not in the window is not drawn, and its pictures are not loaded."""
    page.evaluate("void app.extensionManager.command.execute('Comfy.Canvas.FitView')")


def seen(page, kind: str, colour: tuple[int, int, int]) -> bool:
    """Whether this colour is on the screen where the last node of this type is, once that is in the middle."""
    last = f"app.graph.nodes.findLast(node => node.type == '{kind}')"
    page.evaluate(f"app.canvas.ds.scale = 1, app.canvas.centerOnNode({last}), app.canvas.setDirty(true, true)")
    page.wait_for_timeout(700)
    box = page.evaluate(
        f"""(() => {{
            const {{ pos, size }} = {last}
            const {{ scale, offset }} = app.canvas.ds, frame = app.canvas.canvas.getBoundingClientRect()
            return {{ x: frame.x + (pos[0] + offset[0]) * scale, y: frame.y + (pos[1] + offset[1]) * scale,
                      width: size[0] * scale, height: size[1] * scale }}
        }})()"""
    )
    with Image.open(BytesIO(page.screenshot(clip=box))) as picture:
        return colour in [each for _, each in picture.convert("RGB").getcolors(picture.width * picture.height)]
