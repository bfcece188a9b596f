"""How the demo looks after a run: on two sizes of screen, in both styles of nodes, dark and light.

Each is left as a file in `output/pictures`, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest
from e2e.browser import SIZE
from e2e.frontend import (
    NODES_2_0_SETTING,
    change_setting,
    complaints,
    load,
    photograph,
    skip_unless_nodes_2_0_are_as_now,
)
from e2e.shipped import read_workflow
from PIL import Image
from playwright.sync_api import Page

SCREENS = ((1920, 1080), (1440, 800))
STYLES = {"classic": False, "nodes_2": True}
PALETTES = ("dark", "light")
READABLE = 8  # pixels of a letter on the screen
CONTRAST = 4.5  # of letters to what is behind them, which WCAG asks for
CLOSE_UP = (350, 500)  # pixels
EDGE = 2  # pixels by which borders and rounding may be off

# Nodes with their picture, and the strip of one.
HELPERS = """
    window.ours = () => app.graph.nodes.filter(node => node.comfyClass?.startsWith("AdaCache") && !node.flags.collapsed)
    window.stripOf = node => node.widgets?.find(widget => widget.name == "timeline")?.element
    window.applyNode = () => app.graph.nodes.find(node => node.comfyClass == "AdaCacheApply")
    window.frameOf = node => {
        const drawn = document.querySelector(`[data-node-id="${node.id}"]`)
        if (drawn) return drawn.getBoundingClientRect()
        const { scale, offset } = app.canvas.ds, { x, y } = app.canvas.canvas.getBoundingClientRect()
        const [left, top] = [x + (node.pos[0] + offset[0]) * scale, y + (node.pos[1] + offset[1] - 30) * scale]
        return new DOMRect(left, top, node.size[0] * scale, (node.size[1] + 30) * scale)
    }
"""

# What of our nodes reaches out of its node. A slot's dot does, on both sides, as on every node of the host.
OUTSIDE = f"""ours().flatMap(node => {{
    const frame = frameOf(node), found = []
    const check = (name, left, top, right, bottom) => {{
        if (left < frame.left - {EDGE} || top < frame.top - {EDGE}
            || right > frame.right + {EDGE} || bottom > frame.bottom + {EDGE})
            found.push(`${{node.title}}: ${{name}} at ${{[left, top, right, bottom].map(Math.round)}}, node at `
                + [frame.left, frame.top, frame.right, frame.bottom].map(Math.round))
    }}
    const drawn = document.querySelector(`[data-node-id="${{node.id}}"]`)
    const elements = drawn ? [...drawn.querySelectorAll("*")]
        : (node.widgets ?? []).flatMap(({{ element }}) => element ? [element, ...element.querySelectorAll("*")] : [])
    for (const element of elements) {{
        const own = [...element.childNodes].some(each => each.nodeType == 3 && each.textContent.trim())
        const solid = /^(INPUT|IMG|BUTTON|TEXTAREA|VIDEO|CANVAS)$/.test(element.tagName) || own
        const {{ left, top, right, bottom, width, height }} = element.getBoundingClientRect()
        const slot = element.closest("[class*=slot]")
        if (width && height && (solid || element.closest(".adacache-timeline")) && !slot && element.checkVisibility())
            check(element.textContent.trim().slice(0, 30) || element.tagName, left, top, right, bottom)
    }}
    if (!drawn) for (const widget of node.widgets ?? []) {{
        if (widget.hidden || widget.element) continue
        const scale = app.canvas.ds.scale, top = frame.top + (30 + widget.y) * scale
        check(widget.name, frame.left, top, frame.right, top + (widget.computedHeight ?? 20) * scale)
    }}
    return found
}})"""

# Words of the strip that are cut, or so small that they cannot be read.
CUT = """[...stripOf(applyNode()).querySelectorAll("p:not([hidden]) > span")]
    .filter(line => line.scrollHeight > line.clientHeight + 1 || line.scrollWidth > line.clientWidth + 1)
    .map(line => line.textContent)"""
LETTERS = """(() => {
    const line = stripOf(applyNode()).querySelector("p:not([hidden]) > span")
    return parseFloat(getComputedStyle(line).fontSize) * line.getBoundingClientRect().width / line.offsetWidth
})()"""
IN_STYLE = "nodes2 => Boolean(stripOf(applyNode()).closest('[data-node-id]')) == nodes2"
ON_TOP = """(() => {
    const bars = stripOf(applyNode()).querySelector(".bars"), { x, y, width, height } = bars.getBoundingClientRect()
    return width > 100 && height > 12 && bars.contains(document.elementFromPoint(x + width / 2, y + height / 2))
})()"""
COLOURS = """(() => {
    const lines = [...stripOf(applyNode()).querySelectorAll("p:not([hidden]) > span")]
    const pen = new OffscreenCanvas(1, 1).getContext("2d")
    const { x, y, width, height } = stripOf(applyNode()).querySelector("p:not([hidden])").getBoundingClientRect()
    return [[x, y, x + width, y + height], lines.map(line => {
        pen.clearRect(0, 0, 1, 1)
        pen.fillStyle = getComputedStyle(line).color
        pen.fillRect(0, 0, 1, 1)
        return [...pen.getImageData(0, 0, 1, 1).data]
    })]
})()"""
DARK = """document.querySelector(".dark-theme") != null
    || getComputedStyle(document.documentElement).colorScheme == "dark" """  # frontend 1.49 and before, frontend 1.58
ERRORS = """[...document.querySelectorAll(".p-toast-message-error, [role=dialog], [role=alertdialog]")]
    .filter(each => each.checkVisibility()).map(each => each.innerText)"""


@pytest.fixture(scope="module")
def after_a_run(page: Page) -> Iterator[Page]:
    load(page, read_workflow("demo_wan_tiny"))
    page.evaluate(HELPERS + "void app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(
        "app.graph.nodes.some(node => node.comfyClass == 'AdaCacheCompare' && node.imgs?.[0]?.naturalWidth)",
        timeout=500_000,
    )
    yield page
    change_setting(page, NODES_2_0_SETTING, False)
    change_setting(page, "Comfy.ColorPalette", "dark")
    page.set_viewport_size(SIZE)


@pytest.mark.parametrize(("screen", "style", "palette"), list(product(SCREENS, STYLES, PALETTES)))
def test_after_a_run_all_words_are_in_their_nodes_and_the_strip_is_seen(screen, style, palette, after_a_run, pictures):
    page, (width, height) = after_a_run, screen
    if STYLES[style]:
        skip_unless_nodes_2_0_are_as_now(page)
    page.set_viewport_size({"width": width, "height": height})
    change_setting(page, NODES_2_0_SETTING, STYLES[style])
    change_setting(page, "Comfy.ColorPalette", palette)
    page.wait_for_function(IN_STYLE, arg=STYLES[style])
    page.wait_for_timeout(1_000)
    page.evaluate("void app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1_500)
    shot = pictures / f"demo_{style}_{palette}_{width}x{height}.png"
    page.screenshot(path=shot)
    assert page.evaluate("[innerWidth, innerHeight]") == [width, height]
    assert page.evaluate(DARK) == (palette == "dark")
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(ON_TOP)
    assert page.evaluate(CUT) == []
    assert page.evaluate(LETTERS) >= READABLE
    assert contrast(page, shot) >= CONTRAST
    assert page.evaluate(ERRORS) == []
    assert complaints(page) == []


def test_the_node_close_up_in_both_styles(after_a_run, pictures):
    """The README's picture of it, `docs/images/timeline.png`, is a copy of the one that this leaves."""
    page = after_a_run
    skip_unless_nodes_2_0_are_as_now(page)
    page.set_viewport_size(SIZE)
    change_setting(page, "Comfy.ColorPalette", "dark")
    page.evaluate("Object.assign(applyNode(), { color: undefined, bgcolor: undefined }), null")
    shots = []
    for style, nodes_2 in STYLES.items():
        change_setting(page, NODES_2_0_SETTING, nodes_2)
        page.wait_for_function(IN_STYLE, arg=nodes_2)
        page.wait_for_timeout(1_000)
        shot = pictures / f"node_{style}.png"
        photograph(page, shot, "[applyNode()]", *CLOSE_UP)
        assert page.evaluate(CUT) == []
        assert page.evaluate(LETTERS) >= 12
        with Image.open(shot) as picture:
            shots.append(picture.convert("RGB"))
    both = Image.new("RGB", (2 * CLOSE_UP[0], CLOSE_UP[1]))
    for place, picture in enumerate(shots):
        both.paste(picture, (place * CLOSE_UP[0], 0))
    both.quantize(256).save(pictures / "node.png", optimize=True)


def contrast(page: Page, shot: Path) -> float:
    """The least of all lines of the strip, to the colour that most of the picture has there."""
    box, letters = page.evaluate(COLOURS)
    with Image.open(shot) as picture:
        there = picture.convert("RGB").crop(tuple(map(round, box)))
    _, ground = max(there.getcolors(there.width * there.height))
    mixed = [[(c * a + b * (255 - a)) / 255 for c, b in zip(colour, ground, strict=True)] for *colour, a in letters]
    lights = [sorted([luminance(each), luminance(ground)]) for each in mixed]
    return min((bright + 0.05) / (dim + 0.05) for dim, bright in lights)


def luminance(colour: Sequence[float]) -> float:
    """Relative, of sRGB, as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
