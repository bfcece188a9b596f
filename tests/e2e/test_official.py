"""The host's own templates, sped up by the command, run to their end on a real server, with tiny models in them.

What is tiny: the weights, which are random and of the right class, the size of the video, and what stands in for text
encoders and VAEs (`stand_ins` says how). All else is the template's own: its nodes, its samplers, its steps.
"""

from __future__ import annotations

import copy
import json
import random
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e.frontend import complaints, load, prompt
from e2e.prompts import is_link
from e2e.shipped import read_workflow
from e2e.test_speed_up import APPLY, INSPECTOR, LISTEN, SPEED_UP, TAKE_OUT, TEMPLATES, apart, command
from PIL import Image
from playwright.sync_api import Page

from adacache_core import RunReport
from tools.server import Server, serve

STAND_INS = Path(__file__).parent / "stand_ins"
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
WEIGHTS = ("diffusion_models", "checkpoints", "loras")
REPORT = 3  # among the outputs of an inspector


@dataclass(frozen=True)
class Family:
    """What stands in for the files of a model.

    Attributes:
        kind: of the tiny weights.
        vae, text: of the stand-ins.
    """

    kind: str
    vae: str
    text: str


MINIMAX = Family("MiniMax-H3", "minimax", "minimax")
WAN_T2V, WAN_I2V = Family("Wan t2v", "wan", "wan"), Family("Wan 2.2 i2v", "wan", "wan")
LTX = Family("LTX-2.3 with a reference voice", "ltx", "ltx")
LTX_2 = Family("LTX-2", "ltx", "ltx 2")

OFFICIAL = {
    "video_minimax_h3_t2v": MINIMAX,
    "video_minimax_h3_i2v": MINIMAX,
    "video_minimax_h3_r2v": MINIMAX,
    "video_wan2_2_14B_t2v": WAN_T2V,
    "video_wan2_2_14B_i2v": WAN_I2V,
    "video_wan2_2_14B_flf2v": WAN_I2V,
    "video_wan2_2_14B_fun_inpaint": WAN_I2V,
    "video_wan2_2_14B_fun_camera": Family("Wan Camera", "wan", "wan"),
    "video_ltx2_3_t2v": LTX,
    "video_ltx2_3_i2v": LTX,
    "video_ltx2_3_flf2v": LTX,
    "video_ltx2_3_ia2v": LTX,
    "video_ltx2_3_id_lora": LTX,
    "video_ltx2_5_t2v": LTX,
    "video_ltx2_5_i2v": LTX,
    "video_ltx2_5_flf2v": LTX,
    "video_ltx2_t2v": LTX_2,
    "video_ltx2_i2v": LTX_2,
    "video_ltx2_t2v_distilled": LTX_2,
    "video_ltx2_i2v_distilled": LTX_2,
    "video_ltx2_i2v_lora": LTX_2,
    "text_to_video_wan": WAN_T2V,
}

NOT_RUN = {  # of the same models
    "video_wan2_2_14B_fun_control": "it wants a video to follow",
    "video_wan2_2_14B_s2v": "it wants an encoder of speech",
    "video_ltx2_3_ic_lora": "it wants a video to follow",
    "video_ltx2_canny_to_video": "it wants a video to follow",
    "video_ltx2_depth_to_video": "it wants a video to follow",
}

OURS = {"minimax_h3_adacache": MINIMAX, "wan22_14b_adacache": WAN_T2V, "ltx2_adacache": LTX}

WITH_A_SWITCH = ("video_minimax_h3_t2v", "video_wan2_2_14B_t2v")  # for a LoRA that takes few steps

# As small as the nodes allow; frames that the VAEs can make.
SMALL: dict[str, dict[str, int]] = {
    "EmptyHunyuanLatentVideo": {"width": 64, "height": 64, "length": 9},
    "WanImageToVideo": {"width": 64, "height": 64, "length": 9},
    "WanFirstLastFrameToVideo": {"width": 64, "height": 64, "length": 9},
    "WanFunInpaintToVideo": {"width": 64, "height": 64, "length": 9},
    "WanCameraEmbedding": {"width": 64, "height": 64, "length": 9},
    "WanCameraImageToVideo": {"width": 64, "height": 64, "length": 9},
    "MiniMaxH3ImageToVideo": {"width": 64, "height": 64, "length": 22},
    "MiniMaxH3ReferenceToVideo": {"width": 64, "height": 64, "length": 22},
    "EmptyLTXVLatentVideo": {"width": 64, "height": 64, "length": 17},
    "LTXVEmptyLatentAudio": {"frames_number": 17},
}


@dataclass(frozen=True)
class Run:
    """What came of a prompt.

    Attributes:
        latents: what each sampler made, bit for bit.
        calls: of diffusion models, counted outside of AdaCache.
        reports: of each sampler, if it has an AdaCache.
        files: that were saved.
    """

    latents: list[str]
    calls: int
    reports: list[RunReport]
    files: list[dict]


class Counter:
    """Runs prompts and knows how many calls there were before."""

    def __init__(self, server: Server) -> None:
        self.server, self.calls = server, 0

    def run(self, graph: dict[str, dict]) -> Run:
        graph = copy.deepcopy(graph)
        found = [node for node, each in graph.items() if each["class_type"] in SAMPLERS]
        samplers = sorted(found, key=lambda node: len(upstream(graph, node).intersection(found)))
        applies = [node for node, each in graph.items() if each["class_type"] == APPLY]
        for node in samplers:
            graph[f"{node}, seen"] = {"class_type": "StandInWitness", "inputs": {"latent": [node, 0]}}
            model = model_of(graph, node)
            if model in applies:
                inspector = {"model": [model, 0], "latent": [node, 0], "title": ""}
                graph[f"{node}, inspected"] = {"class_type": INSPECTOR, "inputs": inspector}
                text = {"source": [f"{node}, inspected", REPORT]}
                graph[f"{node}, report"] = {"class_type": "PreviewAny", "inputs": text}
        outputs = self.server.run(graph, lambda *progress: None)
        seen = [outputs[f"{node}, seen"]["text"] for node in samplers]
        reports = [outputs[f"{node}, report"]["text"][0] for node in samplers if f"{node}, report" in outputs]
        before, self.calls = self.calls, max(int(calls) for _, calls in seen)
        videos = [outputs[node] for node, each in graph.items() if each["class_type"] == "SaveVideo"]
        files = [file for each in videos for kind in each.values() for file in kind if isinstance(file, dict)]
        latents = [digest for digest, _ in seen]
        return Run(latents, self.calls - before, [RunReport.from_json(text) for text in reports], files)


def upstream(graph: dict[str, dict], node: str) -> set[str]:
    """All nodes that one gets something from."""
    before = {value[0] for value in graph[node]["inputs"].values() if is_link(value)}
    return before.union(*(upstream(graph, each) for each in before))


def model_of(graph: dict[str, dict], sampler: str) -> str:
    """The node that a sampler gets its model from, if need be through its guider."""
    inputs = graph[sampler]["inputs"]
    return inputs["model"][0] if "model" in inputs else graph[inputs["guider"][0]]["inputs"]["model"][0]


def with_stand_ins(graph: dict[str, dict], family: Family) -> dict[str, dict]:
    """The prompt of a template with small videos, and without what has no small files."""
    graph = copy.deepcopy(graph)
    vae, sound = ({"class_type": "StandInVAE", "inputs": {"kind": f"{family.vae}{of}"}} for of in ("", " sound"))
    text = {"class_type": "StandInText", "inputs": {"kind": family.text}}
    checkpoints = {node for node, each in graph.items() if each["class_type"] == "CheckpointLoaderSimple"}
    for node, each in graph.items():
        kind, inputs = each["class_type"], each["inputs"]
        if kind in ("CLIPLoader", "LTXAVTextEncoderLoader"):
            graph[node] = text
        elif kind == "LTXVAudioVAELoader" or (kind == "VAELoader" and "audio" in inputs["vae_name"]):
            graph[node] = sound
        elif kind == "VAELoader":
            graph[node] = vae
        elif kind == "LatentUpscaleModelLoader":
            graph[node] = {"class_type": "StandInUpscaler", "inputs": {"kind": "twice"}}
        inputs |= SMALL.get(kind, {})
        for name, value in inputs.items():
            if is_link(value) and value[0] in checkpoints and value[1] == 2:
                inputs[name] = ["vae of the checkpoint", 0]
    return graph | {"vae of the checkpoint": vae} if checkpoints else graph


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("official")


@pytest.fixture(scope="session")
def server(comfyui, server_folder) -> Iterator[Server]:
    """One that has the stand-ins, too."""
    with serve(comfyui, server_folder, beside=[STAND_INS]) as running:
        yield running


@pytest.fixture(scope="module")
def counter(server) -> Counter:
    return Counter(server)


@pytest.fixture(scope="module")
def screen(page: Page) -> Page:
    page.evaluate(LISTEN)
    return page


def put_files(workflow: dict, graph: dict[str, dict], family: Family, server: Server, folder: Path) -> None:
    """Tiny weights under the names that a workflow wants, and any picture and sound for those that it opens."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    nodes = [node for each in graphs for node in each["nodes"]]
    wanted = {(each["directory"], each["name"]) for node in nodes for each in node["properties"].get("models", [])}
    files = [
        {"class_type": "StandInWeights", "inputs": {"kind": family.kind, "folder": directory, "name": name}}
        for directory, name in sorted(wanted)
        if directory in WEIGHTS and not (folder / "models" / directory / name).exists()
    ]
    if files:
        server.run({str(number): file for number, file in enumerate(files)}, lambda *progress: None)
    for each in graph.values():
        name = {"LoadImage": "image", "LoadAudio": "audio"}.get(each["class_type"])
        if name is None:
            continue
        path = folder / "input" / each["inputs"][name]
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "image":
            Image.effect_mandelbrot((96, 64), (-3, -2.5, 2, 2.5), 50).convert("RGB").save(path)
        else:
            with path.open("wb") as file, wave.open(file) as sound:
                sound.setparams((1, 2, 16000, 0, "NONE", ""))
                sound.writeframes(random.Random(1).randbytes(2 * 16000))


def with_preset(graph: dict[str, dict], preset: str) -> dict[str, dict]:
    graph = copy.deepcopy(graph)
    for each in graph.values():
        if each["class_type"] == APPLY:
            each["inputs"]["preset"] = preset
    return graph


def check(counter: Counter, plain: dict, made: dict, record_property: Any) -> None:
    """Off is the same bit for bit; of what auto says, the calls that were counted are the witness."""
    without, off, auto = counter.run(plain), counter.run(with_preset(made, "off")), counter.run(made)
    assert without.latents == off.latents
    assert without.calls == off.calls
    assert without.files
    assert auto.files
    assert len(auto.reports) == len(auto.latents), "a sampler without AdaCache"
    assert auto.calls == sum(step.calls_computed for each in auto.reports for step in each.evaluations)
    assert not any("no run made this latent" in note for each in auto.reports for note in each.notes)
    skipped = any(each.skipped for each in auto.reports)
    assert (auto.calls < without.calls) == skipped
    assert (auto.latents != without.latents) == skipped
    record_property("counted", json.dumps([[each.computed, each.total] for each in auto.reports]))
    record_property("notes", json.dumps([note for each in auto.reports for note in each.notes]))


def opened(screen: Page, workflow: dict, object_info: dict[str, Any]) -> dict[str, dict]:
    """A workflow on the screen, as a prompt; skips where the host lacks a node."""
    load(screen, workflow)
    made = prompt(screen)
    if missing := sorted({each["class_type"] for each in made.values()} - object_info.keys()):
        pytest.skip(f"this ComfyUI has no {', '.join(missing)}")
    return made


def official(name: str, record_property: Any) -> dict:
    """A template, whose title is noted."""
    if name not in TEMPLATES:
        pytest.skip(f"comfyui-workflow-templates-json has no {name}")
    chapters = json.loads((TEMPLATES[name].parent / "index.json").read_text())
    (title,) = {each["title"] for chapter in chapters for each in chapter["templates"] if each["name"] == name}
    record_property("title", title)
    return json.loads(TEMPLATES[name].read_text())


@pytest.mark.parametrize("name", [*OFFICIAL, *NOT_RUN])
def test_a_template_runs_off_bit_identical_and_with_a_true_report(
    name, screen, server, server_folder, object_info, counter, record_property
):
    workflow = official(name, record_property)
    if name in NOT_RUN:
        pytest.skip(f"not tried: {NOT_RUN[name]}")
    family = OFFICIAL[name]
    plain = opened(screen, workflow, object_info)
    assert "before" in command(screen, SPEED_UP)["detail"]
    made = prompt(screen)
    assert complaints(screen) == []
    put_files(workflow, plain, family, server, server_folder)
    check(counter, with_stand_ins(plain, family), with_stand_ins(made, family), record_property)


@pytest.mark.parametrize("name", WITH_A_SWITCH)
def test_with_its_switch_for_few_steps(name, screen, server, server_folder, object_info, counter, record_property):
    workflow, family = official(name, record_property), OFFICIAL[name]
    plain = switched(opened(screen, workflow, object_info))
    command(screen, SPEED_UP)
    made = switched(prompt(screen))
    put_files(workflow, plain, family, server, server_folder)
    check(counter, with_stand_ins(plain, family), with_stand_ins(made, family), record_property)


def switched(graph: dict[str, dict]) -> dict[str, dict]:
    """The prompt with its LoRA for few steps."""
    (switch,) = (each for each in graph.values() if "Lightning" in each["_meta"]["title"])
    assert switch["inputs"]["value"] is False
    switch["inputs"]["value"] = True
    return graph


@pytest.mark.parametrize("name", OURS)
def test_a_workflow_of_ours_is_what_the_command_makes_and_runs_as_the_templates_do(
    name, screen, server, server_folder, object_info, counter, record_property
):
    workflow, family = read_workflow(name), OURS[name]
    shipped = opened(screen, workflow, object_info)
    command(screen, TAKE_OUT)
    plain = prompt(screen)
    command(screen, SPEED_UP)
    made = prompt(screen)
    assert apart(made)[1] == plain
    assert before_samplers(made) == before_samplers(shipped)
    assert complaints(screen) == []
    put_files(workflow, plain, family, server, server_folder)
    check(counter, with_stand_ins(plain, family), with_stand_ins(shipped, family), record_property)


def before_samplers(graph: dict[str, dict]) -> dict[str, dict]:
    """The inputs of the AdaCache nodes, by the samplers that they serve."""
    applies = {
        sampler: graph[model_of(graph, sampler)] for sampler in graph if graph[sampler]["class_type"] in SAMPLERS
    }
    assert all(each["class_type"] == APPLY for each in applies.values())
    return {sampler: each["inputs"] for sampler, each in applies.items()}
