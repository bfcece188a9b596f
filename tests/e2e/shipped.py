"""The workflows that are shipped, as files, and what a server says to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.host import HostError
from tools.server import Server

FOLDER = Path(__file__).parents[2] / "workflows"
WORKFLOWS = sorted(path.stem for path in FOLDER.glob("*.json"))
DEMOS = [name for name in WORKFLOWS if name.startswith("demo_")]  # those whose model comes along
LATEST = ["minimax_h3_adacache", "wan22_14b_adacache", "ltx2_adacache"]  # as large as the demos
ABSENT = "nobody has this.safetensors"
LOADED = ("unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "ckpt_name", "image")  # name files
LOADED += ("lora_name", "text_encoder", "model_name")


def read_workflow(name: str) -> dict:
    """In the frontend's format."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def with_report(workflow: dict) -> dict:
    """The workflow as tests look into it: its last inspector open, beneath all else, its report as text beside it."""
    inspector = [node for node in workflow["nodes"] if node["type"] == "AdaCacheInspector"][-1]
    inspector["flags"], inspector["pos"], inspector["size"] = {}, [0, 900], [570, 570]
    node, link = workflow["last_node_id"] + 1, workflow["last_link_id"] + 1
    place = next(place for place, each in enumerate(inspector["outputs"]) if each["name"] == "report")
    inspector["outputs"][place]["links"] = [link]
    workflow["nodes"].append(
        {
            "id": node,
            "type": "PreviewAny",
            "pos": [620, 900],
            "size": [270, 320],
            "flags": {},
            "order": len(workflow["nodes"]),
            "mode": 0,
            "inputs": [{"name": "source", "type": "*", "link": link}],
            "outputs": [{"name": "STRING", "type": "STRING", "links": None}],
            "properties": {"cnr_id": "comfy-core", "ver": "0.8.0", "Node name for S&R": "PreviewAny"},
            "widgets_values": [],
        }
    )
    workflow["links"].append([link, inspector["id"], place, node, 0, "STRING"])
    return workflow | {"last_node_id": node, "last_link_id": link}


def with_steps(workflow: dict, steps: int) -> dict:
    """The workflow, its KSamplers with so many steps."""
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = steps
    return workflow


def misses_nothing_but_files(prompt: dict, server: Server) -> None:
    """Asserts that the server finds no other fault with a prompt than that model files are not there.

    The files get names that nobody has, so that no model is run where somebody has them.
    """
    files = {(node, name) for node, each in prompt.items() for name in each["inputs"] if name in LOADED}
    files -= {(node, name) for node, name in files if isinstance(prompt[node]["inputs"][name], list)}  # links
    for node, name in files:
        prompt[node]["inputs"][name] = ABSENT
    with pytest.raises(HostError) as caught:
        server.run(prompt, lambda *progress: None)
    refused = json.loads(str(caught.value).removeprefix("/prompt: "))["node_errors"]
    complaints = [(node, error) for node, each in refused.items() for error in each["errors"]]
    assert {(node, error["extra_info"]["input_name"]) for node, error in complaints} == files
    for _, error in complaints:
        assert ABSENT in error["details"], error
