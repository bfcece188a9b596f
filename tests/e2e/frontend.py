"""ComfyUI's frontend in a browser's page: workflows put into it, what it complains about, pictures of it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from e2e.browser import errors, forget_errors
from PIL import Image
from playwright.sync_api import Page

# A file that is not there is not ours, and the browser may be without a network; the last is the frontend's own word
# at every start.
NOT_OURS = ("Failed to load resource", "ComfyApp graph accessed before initialization")

NODES_2_0 = (1, 49)  # the oldest frontend whose sizes of nodes are tested

EMPTY = {"nodes": [], "links": [], "version": 0.4}

NODES_2_0_SETTING = "Comfy.VueNodes.Enabled"

LEFT, TOP = 80, 110  # of the part of the window that no bar lies over


def wait_until_ready(page: Page) -> None:
    """Until the frontend can take a graph."""
    page.wait_for_function("window.app?.vueAppReady")


def load(page: Page, workflow: dict) -> None:
    """Opens a workflow; what was complained about before is forgotten."""
    forget_errors(page)
    page.evaluate("text => app.loadGraphData(JSON.parse(text))", json.dumps(workflow))
    wait_for_nodes(page, workflow)


def wait_for_nodes(page: Page, workflow: dict) -> None:
    """Until the graph has as many nodes as a workflow."""
    page.wait_for_function("count => app.graph.nodes.length == count", arg=len(workflow["nodes"]))


def read(page: Page, script: str) -> Any:
    """The value of a JavaScript expression. For whole graphs, as JSON is 20 times as fast as `page.evaluate`."""
    return json.loads(page.evaluate(f"Promise.resolve({script}).then(value => JSON.stringify(value))"))


def serialized(page: Page) -> dict:
    """The graph that is open, as a workflow is saved."""
    return read(page, "app.graph.serialize()")


def prompt(page: Page) -> dict[str, dict]:
    """The workflow in API format."""
    return read(page, "app.graphToPrompt().then(made => made.output)")


def change_setting(page: Page, name: str, value: object) -> None:
    page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])


def skip_unless_nodes_2_0_are_as_now(page: Page) -> None:
    """In older frontends they were tried out, and larger than nodes on the canvas: what fits now did not fit there."""
    version = page.evaluate("window.__COMFYUI_FRONTEND_VERSION__ ?? '0.0'")
    if tuple(map(int, version.split(".")[:2])) < NODES_2_0:
        pytest.skip(f"how large Nodes 2.0 are in frontend {version} is not what is tested here")


def complaints(page: Page) -> list[str]:
    return [each for each in errors(page) if not each.startswith(NOT_OURS)]


def photograph(page: Page, path: Path, nodes: str = "app.graph.nodes", width: int = 1400, height: int = 830) -> None:
    """Writes a picture of some nodes as they are on the screen, as large as they can be.

    Args:
        path: of a PNG, or of a JPEG half as wide.
        nodes: JavaScript, a list of them.
        width, height: in pixels of the page.
    """
    page.evaluate(
        f"""(() => {{
            const boxes = {nodes}.map(node => node.getBounding()), least = (a, b) => Math.min(a, b)
            const left = boxes.map(box => box[0]).reduce(least) - 20, top = boxes.map(box => box[1]).reduce(least) - 20
            const wide = -boxes.map(box => -box[0] - box[2]).reduce(least) + 20 - left
            const high = -boxes.map(box => -box[1] - box[3]).reduce(least) + 20 - top
            const frame = app.canvas.canvas.getBoundingClientRect()
            const scale = Math.min({width} / wide, {height} / high)
            app.canvas.ds.scale = scale
            app.canvas.ds.offset[0] = ({LEFT} - frame.x + ({width} - scale * wide) / 2) / scale - left
            app.canvas.ds.offset[1] = ({TOP} - frame.y + ({height} - scale * high) / 2) / scale - top
            app.canvas.setDirty(true, true)
        }})()"""
    )
    page.wait_for_timeout(700)
    shot = page.screenshot(clip={"x": LEFT, "y": TOP, "width": width, "height": height})
    with Image.open(BytesIO(shot)) as taken:
        picture = taken.convert("RGB")
    if path.suffix == ".png":
        picture.quantize(256).save(path, optimize=True)
    else:
        picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(path, quality=85)
