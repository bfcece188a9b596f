"""An artist opens the template, puts a model of their own into it, and gets a picture and a file.

The demo model takes the place of theirs.
"""

from __future__ import annotations

import re
from io import BytesIO
from urllib.parse import parse_qs, urlparse

import pytest
from e2e.frontend import EMPTY, NODES_2_0_SETTING, change_setting, complaints, load, photograph, wait_for_nodes
from e2e.shipped import read_workflow
from e2e.test_frontend import see_everything
from PIL import Image

from adacache_core.tell.measured import AUTO, PLAIN, QUALITY, RUNS, Measured
from tools.measured import DEMO_SETTINGS, DEMO_SIZE, DEMO_WORDS
from tools.server import PACK

NAME = "measure_on_your_model"
MEASURE = "app.graph.nodes.find(node => node.type == 'AdaCacheMeasure')"

# Takes the loaders away and puts those of another model there, as one does by hand.
OWN_MODEL = """([words, size]) => {
    const add = (type, place, values) => {
        const node = LiteGraph.createNode(type)
        node.pos = place
        app.graph.add(node)
        for (const [name, value] of Object.entries(values)) node.widgets.find(each => each.name == name).value = value
        return node
    }
    const gone = ["UNETLoader", "CLIPLoader", "EmptyHunyuanLatentVideo", "CLIPTextEncode"]
    for (const node of [...app.graph.nodes]) if (gone.includes(node.type)) app.graph.remove(node)
    const measure = app.graph.nodes.find(node => node.type == "AdaCacheMeasure"), own = {
        model: add("AdaCacheDemoModel", [390, 0], {}),
        positive: add("AdaCacheDemoPrompt", [390, 90], { ...words, empty: false }),
        negative: add("AdaCacheDemoPrompt", [390, 340], { ...words, empty: true }),
        latent_image: add("EmptyHunyuanLatentVideo", [390, 590], size),
    }
    for (const [name, node] of Object.entries(own))
        node.connect(0, measure, measure.inputs.findIndex(input => input.name == name))
}"""


def set_widgets(page, values: dict) -> None:
    page.evaluate(
        f"""values => {{
            for (const [name, value] of Object.entries(values))
                {MEASURE}.widgets.find(each => each.name == name).value = value
        }}""",
        values,
    )


@pytest.fixture(scope="module")
def seen(page, pictures):
    """The page after the run, and where the picture is, as the node has it."""
    load(page, EMPTY)
    page.evaluate("void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(PACK, exact=True).click()
    page.get_by_text(NAME, exact=True).click()
    wait_for_nodes(page, read_workflow(NAME))
    photograph(page, pictures / "measure_opened.png")
    page.evaluate(OWN_MODEL, [DEMO_WORDS, DEMO_SIZE])
    set_widgets(page, DEMO_SETTINGS)
    see_everything(page)
    page.get_by_text("Run", exact=True).click()
    page.wait_for_function(f"{MEASURE}.imgs?.[0]?.naturalWidth", timeout=300_000)
    page.wait_for_function("app.graph.nodes.find(node => node.type == 'SaveAnimatedWEBP').imgs?.[0]?.naturalWidth")
    photograph(page, pictures / "measure.png", width=1300, height=1000)
    return page


@pytest.fixture(scope="module")
def saved(seen, server):
    """What the node saved: the text of the file, and the picture."""
    address = seen.evaluate(f"{MEASURE}.imgs[0].src")
    file = {name: values[0] for name, values in parse_qs(urlparse(address).query).items()}
    file = {name: file[name] for name in ("filename", "subfolder", "type")}
    text = server.view(file | {"filename": file["filename"].removesuffix(".png") + ".json"}).decode()
    return text, server.view(file)


def test_the_file_tells_of_three_runs(saved):
    measured = Measured.from_json(saved[0])
    assert tuple(measured.runs) == RUNS
    assert measured.settings.title == DEMO_SETTINGS["title"]
    assert (measured.settings.model, measured.settings.steps, measured.settings.sampler) == ("WanModel", 30, "euler")
    assert measured.runs[PLAIN].report.computed == 30
    for name in (AUTO, QUALITY):
        assert measured.runs[name].report.computed < 25
        assert measured.runs[name].report.expected is not None
        assert 10 < measured.runs[name].likeness.closeness < 60
        assert measured.speedup(name) > 1


def test_neither_file_nor_picture_holds_the_prompt_or_a_path(saved, server_folder):
    text, picture = saved
    said = set(re.findall(r"\w+", text))
    assert said.isdisjoint({*DEMO_WORDS.values(), "prompt", "workflow", *server_folder.parts})
    with Image.open(BytesIO(picture)) as opened:
        assert opened.info == {}


def test_the_page_has_nothing_to_complain_of(seen):
    assert complaints(seen) == []


def test_in_the_other_style_of_nodes_it_is_there_too(seen, pictures):
    change_setting(seen, NODES_2_0_SETTING, True)
    try:
        seen.locator("[data-node-id] img").first.wait_for()
        photograph(seen, pictures / "measure_nodes2.png", width=1300, height=1000)
    finally:
        change_setting(seen, NODES_2_0_SETTING, False)
