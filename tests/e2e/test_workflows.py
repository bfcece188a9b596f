"""The shipped workflows: files that hold together, know the host's nodes, and are taken by its server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from e2e.shipped import DEMOS, LATEST, LOADED, misses_nothing_but_files, read_workflow

from tools.server import PACK

SIDE_BY_SIDE = {"demo_wan_tiny", "demo_wan_tiny_paper"}
NAMES = SIDE_BY_SIDE | {"demo_two_videos", "wan_t2v_adacache", "wan_i2v_adacache"}
NAMES |= {"hunyuan_video_adacache", "ltxv_adacache", "measure_on_your_model"}
NAMES |= {*LATEST}
WITH_ADACACHE = sorted(NAMES - {"measure_on_your_model"})  # there AdaCache Measure puts it on the model
NOTES = {"MarkdownNote"}  # the frontend's own; the server never sees them
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
GUIDERS = ("BasicGuider", "CFGGuider")
TITLE, LARGEST = 30, (1500, 750)  # units of the canvas
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
FOLDERS = {"diffusion_models", "text_encoders", "vae", "clip_vision", "checkpoints", "loras", "latent_upscale_models"}


def nodes_of(workflow: dict, *kinds: str) -> list[dict]:
    """All nodes that the server gets, or those of these types."""
    return [node for node in workflow["nodes"] if node["type"] in kinds or (not kinds and node["type"] not in NOTES)]


def titles_of(workflow: dict) -> set[str]:
    return {node.get("title", "") for node in workflow["nodes"]}


def inputs_of(info: dict) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, type and options of a node's inputs, in the order in which the frontend makes them."""
    for part in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(part, {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            if "," in kind and kind.split(",")[0] in WIDGETS:  # it takes links of several types
                kind = kind.split(",")[0]
            yield name, kind, options


def widgets_of(info: dict, values: list) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What each entry of `widgets_values` is for.

    Beside an input's own widget: how a seed goes on, the button of a picture to upload, and what the
    chosen entry of a dynamic combo brings along.
    """
    place = 0
    for name, kind, options in inputs_of(info):
        if kind not in WIDGETS:
            continue
        yield name, kind, options
        chosen, place = values[place] if place < len(values) else None, place + 1
        if options.get("control_after_generate"):
            yield "control_after_generate", "COMBO", {"options": ["fixed", "increment", "decrement", "randomize"]}
            place += 1
        if options.get("image_upload"):
            yield "upload", "COMBO", {"options": ["image"]}
            place += 1
        if kind == "COMFY_DYNAMICCOMBO_V3":
            entry = next((each for each in options["options"] if each["key"] == chosen), {"inputs": {}})
            brought = list(widgets_of({"input": entry["inputs"]}, values[place:]))
            yield from brought
            place += len(brought)


def misfit(kind: str, options: dict, value: Any) -> str:
    """Why a widget cannot have this value; empty if it can."""
    if kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
        known = [each["key"] if isinstance(each, dict) else each for each in options["options"]]
        return "" if value in known else f"none of {known}"
    classes = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}[kind]
    if not isinstance(value, classes) or (kind in ("INT", "FLOAT") and isinstance(value, bool)):
        return f"no {kind}"
    if kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
        return f"not within {options.get('min')}..{options.get('max')}"
    return ""


def test_the_promised_workflows_are_there_and_the_hosts_template_browser_lists_them(server):
    with urlopen(f"http://{server.address}/api/workflow_templates") as answer:
        listed = json.load(answer)
    assert set(listed[PACK]) == NAMES


def test_links_join_what_both_ends_say_they_join(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    for number, source, output, target, socket, kind in workflow["links"]:
        left, right = nodes[source]["outputs"][output], nodes[target]["inputs"][socket]
        assert number in left["links"]
        assert right["link"] == number
        assert left["type"] == kind
        assert kind in right["type"].split(",") or right["type"] == "*"
    named = [link for node in nodes.values() for output in node["outputs"] for link in output["links"] or []]
    taken = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(named) == sorted(taken) == sorted(link[0] for link in workflow["links"])


def test_every_node_says_which_pack_it_comes_from(workflow):
    for node in nodes_of(workflow):
        ours = node["type"].startswith("AdaCache")
        assert node["properties"]["cnr_id"] == ("adacache" if ours else "comfy-core")
        assert node["properties"]["ver"].count(".") == 2
        assert node["properties"]["Node name for S&R"] == node["type"]


def test_every_model_file_has_a_link_and_a_folder(workflow):
    for node in nodes_of(workflow):
        names = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == names
        for model in models:
            assert model["url"].startswith("https://")
            assert model["url"].endswith("/" + model["name"])
            assert model["directory"] in FOLDERS


def test_nodes_do_not_overlap(workflow):
    boxes = [box_of(node) for node in workflow["nodes"]]
    for number, (left, top, right, bottom) in enumerate(boxes):
        for x, y, far, low in boxes[:number]:
            assert far <= left or right <= x or low <= top or bottom <= y, f"({left}, {top}) lies on ({x}, {y})"


def box_of(node: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node; its title lies above its position, and is all of it that a collapsed one
    shows (as wide as its words, which only the frontend knows)."""
    (left, top), (width, height) = node["pos"], node["size"]
    if node["flags"].get("collapsed"):
        width, height = 1, 0
    return left, top - TITLE, left + width, top + height


@pytest.mark.parametrize("name", [*DEMOS, *LATEST])
def test_it_opens_large_enough_to_be_read_and_every_node_lies_in_one_group(name):
    workflow = read_workflow(name)
    groups = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    left, top, right, bottom = zip(*groups, strict=True)
    assert max(right) - min(left) <= LARGEST[0]
    assert max(bottom) - min(top) <= LARGEST[1]
    for node in workflow["nodes"]:
        x, y, far, low = box_of(node)
        around = [each for each in groups if each[0] <= x and each[1] <= y and far <= each[2] and low <= each[3]]
        assert len(around) == 1, node["type"]


def test_the_host_knows_every_node_and_its_sockets(workflow, object_info):
    for node in nodes_of(workflow):
        info = object_info[node["type"]]
        sockets = {name: kind for name, kind, _ in inputs_of(info)}
        for entry in node["inputs"]:
            assert entry["type"] == sockets[entry["name"]], f"{node['type']}.{entry['name']}"
        # An older host may know fewer outputs than the newest, never other ones.
        for entry, kind in zip(node["outputs"], info["output"], strict=False):
            assert entry["type"] == kind, f"{node['type']}: {entry['name']}"


def test_widget_values_are_those_of_the_schema_in_number_and_order(workflow, object_info):
    """Of core nodes an older host knows fewer widgets, and the frontend leaves out what is too many."""
    for node in nodes_of(workflow):
        values = node["widgets_values"]
        widgets = list(widgets_of(object_info[node["type"]], values))
        ours = node["type"].startswith("AdaCache")
        assert len(values) == len(widgets) or (not ours and len(values) > len(widgets)), node["type"]
        for (name, kind, options), value in zip(widgets, values, strict=False):
            if name not in LOADED:
                assert not (why := misfit(kind, options, value)), f"{node['type']}.{name} = {value!r}: {why}"


@pytest.mark.parametrize("workflow_name", WITH_ADACACHE, indirect=True)
def test_adacache_comes_right_before_a_sampler_and_an_inspector_after_it(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    applies = nodes_of(workflow, "AdaCacheApply")
    assert len(applies) == (2 if "Model for low noise" in titles_of(workflow) else 1), "one for each model"
    for apply in applies:
        fed = {nodes[link[3]]["type"] for link in workflow["links"] if link[1] == apply["id"]}
        assert fed - {"AdaCacheInspector", "AdaCacheLatentPreview", "AdaCacheCompare"} <= {*SAMPLERS, *GUIDERS}
    sources = {link[0]: nodes[link[1]] for link in workflow["links"]}
    inspectors = nodes_of(workflow, "AdaCacheInspector")
    assert inspectors
    for inspector in inspectors:
        origin = {entry["name"]: entry["link"] for entry in inspector["inputs"]}
        assert sources[origin["model"]] in applies
        assert sources[origin["latent"]]["type"] in SAMPLERS


@pytest.mark.parametrize("name", sorted(SIDE_BY_SIDE))
def test_a_demos_two_samplers_differ_in_their_model_only(name, prompt_of):
    one, other = (each["inputs"] for each in prompt_of(name).values() if each["class_type"] == "KSampler")
    assert {name for name in one if one[name] != other[name]} == {"model"}


@pytest.mark.parametrize("workflow_name", sorted(NAMES - {*DEMOS}), indirect=True)
def test_the_server_takes_every_workflow_and_misses_nothing_but_the_files(workflow, object_info, server):
    """The demos have no files to miss; test_server.py runs them."""
    prompt = convert_ui_to_api(workflow, object_info)
    assert {int(node) for node in prompt} == {node["id"] for node in nodes_of(workflow)}
    misses_nothing_but_files(prompt, server)
