"""The commands that put AdaCache into a workflow and take it out again, on every local video template of the host."""

from __future__ import annotations

import json
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path

import pytest
from e2e.frontend import EMPTY, complaints, load, photograph, prompt, read
from e2e.prompts import is_link
from e2e.shipped import read_workflow
from playwright.sync_api import Page

SPEED_UP, TAKE_OUT = "AdaCache.SpeedUp", "AdaCache.TakeOut"
APPLY, INSPECTOR = "AdaCacheApply", "AdaCacheInspector"
TITLE = 30  # pixels of a node above its position
LEFT_OUT = {"video_causal_forcing_i2v": "the model makes frame after frame: nothing of it would be skipped"}

LISTEN = """() => {
    if (!window.told) {
        const { toast } = app.extensionManager, add = toast.add
        toast.add = message => { told.push(message); return add.call(toast, message) }
    }
    window.told = []
}"""

# The workflow as it is saved, without what any change to a graph changes: the numbers of links and the order of nodes.
SAVED = """(() => {
    const { definitions, ...outer } = app.rootGraph.serialize()
    const ends = link => Array.isArray(link) ? link.slice(1, 5)
        : [link.origin_id, link.origin_slot, link.target_id, link.target_slot]
    const node = ({ inputs = [], outputs = [], order, ...rest }) => ({ ...rest,
        inputs: inputs.map(({ link, ...rest }) => rest), outputs: outputs.map(({ links, ...rest }) => rest) })
    const clean = ({ nodes, links, groups, reroutes = [], extra }) => ({ nodes: nodes.map(node), groups,
        links: links.map(link => ends(link).join()).sort(), reroutes: [...reroutes, ...extra?.reroutes ?? []].length })
    return [outer, ...definitions?.subgraphs ?? []].map(clean)
})()"""

GRAPHS = "[app.rootGraph, ...app.rootGraph.subgraphs.values()]"
BOXES = f"""{GRAPHS}.map(graph => graph.nodes.map(({{ type, pos, size, flags }}) =>
    [type, pos[0], pos[1] - {TITLE}, flags.collapsed ? 100 : size[0], (flags.collapsed ? 0 : size[1]) + {TITLE}]))"""


def templates() -> dict[str, Path]:
    """The host's templates for video that call no paid service, from the package that its frontend wants."""
    package = find_spec("comfyui_workflow_templates_json")
    if package is None or package.origin is None:
        return {}
    folder = Path(package.origin).parent / "templates"
    chapters = json.loads((folder / "index.json").read_text())
    shown = [each for chapter in chapters if chapter["title"] == "Video" for each in chapter["templates"]]
    return {each["name"]: folder / f"{each['name']}.json" for each in shown if each.get("openSource", True)}


TEMPLATES = templates()


@pytest.fixture
def screen(page: Page) -> Page:
    """A page that remembers what was told in toasts, as `told`."""
    page.evaluate(LISTEN)
    return page


@pytest.fixture(scope="module")
def served() -> dict[str, bool]:
    """Template -> whether all of its samplers got an AdaCache."""
    return {}


def command(page: Page, name: str) -> dict[str, str]:
    """Runs it; what the user is told."""
    page.evaluate("name => app.extensionManager.command.execute(name)", name)
    return page.evaluate("told.at(-1)")


def apart(prompt: dict[str, dict]) -> tuple[dict[str, dict], dict[str, dict]]:
    """The AdaCache nodes of a prompt, and the prompt as it would be if what comes into them went on."""
    applies = {node: each for node, each in prompt.items() if each["class_type"] == APPLY}

    def before(value: object) -> object:
        return applies[value[0]]["inputs"]["model"] if is_link(value) and value[0] in applies else value

    rest = {node: each for node, each in prompt.items() if node not in applies}
    return applies, {
        node: each | {"inputs": {name: before(value) for name, value in each["inputs"].items()}}
        for node, each in rest.items()
    }


def models_of_samplers(prompt: dict[str, dict], object_info: dict) -> list[str]:
    """The nodes from which samplers and guiders get their models: those that go on to no other model."""
    found = []
    for each in prompt.values():
        info = object_info[each["class_type"]]
        kinds = {name: kind[0] for group in info["input"].values() for name, kind in group.items()}
        if (
            "GUIDER" in info["output"]
            or ("LATENT" in info["output"] and {"SAMPLER"} & {*map(str, kinds.values())})
            or ("LATENT" in info["output"] and "sampler_name" in kinds)
        ):
            found += [
                each["inputs"][name][0] for name, kind in kinds.items() if kind == "MODEL" and name in each["inputs"]
            ]
    return found


def overlapping(page: Page) -> list[tuple[str, str]]:
    """Pairs of nodes, one of them an AdaCache, that lie on each other."""
    return [
        (one[0], other[0])
        for boxes in page.evaluate(BOXES)
        for one, other in combinations(boxes, 2)
        if APPLY in (one[0], other[0])
        and all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (1, 2))
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gets_it_before_every_sampler_and_is_afterwards_what_it_was(name, screen, object_info, served):
    load(screen, json.loads(TEMPLATES[name].read_text()))
    plain, saved = prompt(screen), read(screen, SAVED)
    command(screen, SPEED_UP)
    made = prompt(screen)
    applies, rest = apart(made)
    samplers = models_of_samplers(made, object_info)
    assert rest == plain
    assert samplers
    served[name] = set(samplers) == set(applies)
    assert served[name] or (name in LEFT_OUT and not applies)
    assert len({str(each["inputs"]["model"]) for each in applies.values()}) == len(applies), "two of one model"
    assert overlapping(screen) == []
    again = command(screen, SPEED_UP)["summary"]
    assert again == (
        "AdaCache found nothing to speed up here" if name in LEFT_OUT else "AdaCache is in this workflow already"
    )
    command(screen, TAKE_OUT)
    assert prompt(screen) == plain
    assert read(screen, SAVED) == saved
    assert complaints(screen) == []


def test_so_many_templates_are_served(served, capsys):
    if not served:
        pytest.skip("no template was tried: comfyui-workflow-templates-json is not installed")
    why = "".join(f"; not {name}: {LEFT_OUT[name]}" for name, well in served.items() if not well)
    with capsys.disabled():
        print(f"\nspeed up: {sum(served.values())} of {len(served)} local video templates served{why}")
    assert {name for name, well in served.items() if not well} <= LEFT_OUT.keys()


@pytest.fixture
def demo(screen: Page) -> Page:
    """The demo on the screen, AdaCache and what belongs to it taken out: two KSamplers with one model."""
    load(screen, read_workflow("demo_wan_tiny"))
    command(screen, TAKE_OUT)
    screen.evaluate(
        """(() => {
            window.all = type => [app.rootGraph, ...app.rootGraph.subgraphs.values()]
                .flatMap(graph => graph.nodes).filter(node => node.type == type)
            for (const node of [...all("AdaCacheInspector"), ...all("SaveImage"), ...all("PreviewAny")])
                app.graph.remove(node)
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState?.()
        })()"""
    )
    return screen


def count(page: Page, kind: str = APPLY) -> int:
    return page.evaluate(f"all('{kind}').length")


def test_two_samplers_of_one_model_share_a_node_and_one_ctrl_z_undoes_it(demo, pictures):
    saved = read(demo, SAVED)
    told = command(demo, SPEED_UP)
    assert count(demo) == 1
    assert "before Without AdaCache, With AdaCache." in told["detail"]
    assert overlapping(demo) == []
    photograph(demo, pictures / "speed_up.png")
    undo(demo)
    assert read(demo, SAVED) == saved


def test_in_a_subgraph_too(demo):
    demo.evaluate("void app.graph.convertToSubgraph(new Set([all('KSampler')[0]]))")
    saved, plain = read(demo, SAVED), prompt(demo)
    told = command(demo, SPEED_UP)
    assert "Without AdaCache in New Subgraph" in told["detail"]
    applies, rest = apart(prompt(demo))
    assert rest == plain
    assert len(applies) == 1, "outside, where the two ways part"
    command(demo, TAKE_OUT)
    assert read(demo, SAVED) == saved


def test_in_a_subgraph_that_two_nodes_stand_for_it_is_inside(demo):
    demo.evaluate(
        """(() => {
            app.graph.remove(all("KSampler")[1])
            const { node } = app.graph.convertToSubgraph(new Set(all("KSampler"))), twin = node.clone()
            app.graph.add(twin)
            node.inputs.forEach(({ link }, slot) => {
                const { origin_id, origin_slot } = app.graph.getLink(link)
                app.graph.getNodeById(origin_id).connect(origin_slot, twin, slot)
            })
            twin.connect(0, all("AdaCacheCompare")[0], 1)
        })()"""
    )
    plain = prompt(demo)
    command(demo, SPEED_UP)
    applies, rest = apart(prompt(demo))
    assert count(demo) == 1
    assert len(applies) == 2, "one for each run of the subgraph"
    assert rest == plain


def test_reroutes_stay_where_they_are(demo):
    """A node of that name that carries the MODEL to both samplers, and the frontend's own points on a link."""
    demo.evaluate(
        """(() => {
            const reroute = LiteGraph.createNode("Reroute"), [model] = all("AdaCacheDemoModel")
            app.graph.add(reroute)
            model.connect(0, reroute, 0)
            for (const sampler of all("KSampler")) reroute.connect(0, sampler, 0)
            app.graph.createReroute([300, 900], app.graph.getLink(reroute.inputs[0].link))
        })()"""
    )
    saved, plain = read(demo, SAVED), prompt(demo)
    command(demo, SPEED_UP)
    assert count(demo) == count(demo, "Reroute") == 1
    assert apart(prompt(demo))[1] == plain
    command(demo, TAKE_OUT)
    assert read(demo, SAVED) == saved


def test_a_sampler_of_a_pack_that_is_not_installed_is_known_by_its_slots(screen):
    workflow = read_workflow("demo_wan_tiny")
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["type"] = "Sampler of a pack that nobody has"
        if node["type"] == APPLY:
            node["mode"] = 4  # bypassed, as whoever compares leaves it
    load(screen, workflow)
    told = command(screen, SPEED_UP)
    assert "before Without AdaCache." in told["detail"], "the other one has an AdaCache, if a bypassed one"
    sampler = "app.graph.nodes.filter(node => node.type.startsWith('Sampler of'))"
    assert screen.evaluate(f"{sampler}.map(node => node.getInputNode(0).type)") == [APPLY, APPLY]


def test_what_only_serves_it_is_taken_out_with_it_and_what_is_used_stays(demo):
    command(demo, SPEED_UP)
    demo.evaluate(
        """(() => {
            const add = type => { const node = LiteGraph.createNode(type); app.graph.add(node); return node }
            const [apply] = all("AdaCacheApply"), [codebook, used, spare] =
                ["AdaCacheCodebook", "AdaCacheInspector", "AdaCacheInspector"].map(add)
            codebook.connect(0, apply, apply.findInputSlot("codebook"))
            const [sampler] = all("KSampler"), [target] = all("AdaCacheCompare")
            for (const inspector of [used, spare]) apply.connect(0, inspector, 0)
            sampler.connect(0, spare, 1)
            spare.connect(0, used, 1)
            used.connect(0, target, target.findInputSlot("reference"))
            used.connect(3, add("PreviewAny"), 0)
        })()"""
    )
    command(demo, TAKE_OUT)
    assert (count(demo), count(demo, "AdaCacheCodebook"), count(demo, INSPECTOR)) == (0, 0, 1)
    made = prompt(demo)
    (inspector,) = (each for each in made.values() if each["class_type"] == INSPECTOR)
    assert made[inspector["inputs"]["latent"][0]]["class_type"] == "KSampler"
    assert made[inspector["inputs"]["model"][0]]["class_type"] == "AdaCacheDemoModel"


def test_without_a_sampler_it_says_so(screen):
    load(screen, EMPTY)
    assert command(screen, SPEED_UP)["summary"] == "AdaCache found nothing to speed up here"
    assert command(screen, TAKE_OUT)["summary"] == "There is no AdaCache in this workflow"


def test_a_node_that_measures_adacache_needs_none(screen):
    load(screen, read_workflow("measure_on_your_model"))
    assert command(screen, SPEED_UP)["summary"] == "AdaCache found nothing to speed up here"


def test_the_canvas_menu_offers_both(demo):
    items = "app.collectCanvasMenuItems?.(app.canvas)"
    if demo.evaluate(f"!{items}"):
        pytest.skip("this frontend asks extensions for nothing in the menu of the canvas")
    wanted = ["Speed up this workflow with AdaCache", "Take AdaCache out of this workflow"]
    assert [each for each in demo.evaluate(f"{items}.map(each => each?.content)") if each in wanted] == wanted
    demo.evaluate(f"void {items}.find(each => each?.content == '{wanted[0]}').callback()")
    assert count(demo) == 1
    demo.evaluate(f"void {items}.find(each => each?.content == '{wanted[1]}').callback()")
    assert count(demo) == 0


def test_the_help_of_the_node_has_a_link_that_does_it(demo, pictures):
    demo.evaluate(
        """(() => {
            const apply = LiteGraph.createNode("AdaCacheApply")
            apply.pos = [-600, 0]
            app.graph.add(apply)
            app.canvas.selectItems([apply])
            app.canvas.centerOnNode(apply)
        })()"""
    )
    demo.get_by_test_id("info-button").click()
    link = demo.locator('a[href="#adacache-speed-up"]')
    link.wait_for()
    demo.screenshot(path=pictures / "help.png")
    link.dispatch_event("click")  # the toasts of other tests may lie over it
    assert count(demo) == 2
    assert demo.evaluate("location.hash") != "#adacache-speed-up"


def undo(page: Page) -> None:
    """As its user does."""
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Control+z")
    page.wait_for_function("all('AdaCacheApply').length == 0", timeout=10_000)
