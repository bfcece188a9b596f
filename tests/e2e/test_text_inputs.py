"""Every text input of our nodes on a real server of its own, given what attackers and slips of the keyboard give.

The answer is a run or an error that names the input or the node; the server lives on, and writes nowhere else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from adacache_core.tell.calibrate import codebook_from_json
from tools.host import HostError
from tools.server import serve

# OUTSIDE is a folder of the test's own: a text that does escape must do no harm, and must be seen.
TEXTS = [
    "",
    " ",
    "\0",
    "x",
    "NUL",
    "nul.txt",
    "CON:",
    "../../escaped",
    "OUTSIDE/escaped",
    "..\\..\\escaped",
    "~/escaped",
]
TEXTS += ["a\nb", "a\r\n\tb", "\ud800", "\u202etxt.exe", "\ufeff1:2", "😀", "é" * 300, "x" * 70_000, "9" * 5000]
TEXTS += ["[" * 20_000, '{"a":' * 20_000, "1e308:1e308", "nan:inf", "0.1:2, 0.2:" + "9" * 400, "1" + ", 1" * 500]
TEXTS += [
    "<script>alert(1)</script>",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%s%n%x",
    "'; --",
    "$(touch escaped)",
    "__proto__",
]
TEXTS += ['{"format": "adacache.report", "version": 1, "sampler_steps": 1000000000000, "evaluations": "x"}']
TEXTS += ['{"format": "adacache.schedule", "version": 1, "computed": [true' + ", false" * 20_000 + "]}"]

# The graph in which an input is tried: "tried" is its node, of which some output is looked at.
ALONE = {
    ("AdaCacheCodebook", "text"): {"table": "custom", "for_steps": 0, "rate_scale": 10.0},
    ("AdaCacheSchedule", "text"): {},
    ("AdaCacheMoReg", "strides"): {"strength": 1.0, "window": "as published", "start_percent": 0.1, "end_percent": 0.9}
    | {"pivot": 0.385, "power": 8.0, "divisor": 1.0, "gradient": 10.0, "form": "reference"},
}
# Those that come after a run.
CALIBRATE, TITLE = ("AdaCacheCalibrate", "name"), ("AdaCacheInspector", "title")
AFTER = {CALIBRATE: {"speedup": 2.0, "entries": 4, "runs": 16, "save": "save, replacing the file"}, TITLE: {}}
# What makes its runs itself.
MEASURE = ("AdaCacheMeasure", "title")
ITSELF = {MEASURE: {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}}
SLOTS = {"shape": "circle", "count": "one", "colour": "red", "motion": "slow", "direction": "right"}


def watched() -> dict:
    """A run that the calibration can use."""
    prompt = {"class_type": "AdaCacheDemoPrompt", "inputs": {**SLOTS, "background": "dark", "empty": False}}
    settings = {"preset": "watch", "speedup": 2.0, "start_percent": 0.0, "end_percent": 1.0}
    settings |= {"probe_position": 0.5, "cache_device": "main", "model": ["model", 0]}
    latent = {"width": 64, "height": 64, "length": 5, "batch_size": 1}
    sampler = {"seed": 1, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampler |= {
        "model": ["apply", 0],
        "positive": ["prompt", 0],
        "negative": ["prompt", 0],
        "latent_image": ["latent", 0],
    }
    return {
        "model": {"class_type": "AdaCacheDemoModel", "inputs": {}},
        "prompt": prompt,
        "apply": {"class_type": "AdaCacheApply", "inputs": settings},
        "latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": latent},
        "sampler": {"class_type": "KSampler", "inputs": sampler},
    }


def graph(kind: str, name: str, text: str, linked: bool) -> dict:
    """A prompt that gives this text to this input, as its widget or through a link, which is read only as it runs."""
    prompt = {"text": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}}} if linked else {}
    value = ["text", 0] if linked else text
    if (kind, name) in AFTER:
        inputs = {"model": ["apply", 0], "latent": ["sampler", 0], **AFTER[kind, name], name: value}
        return prompt | watched() | {"tried": {"class_type": kind, "inputs": inputs}}
    if (kind, name) in ITSELF:
        around = watched()
        given = {each: around["sampler"]["inputs"][each] for each in ("positive", "negative", "latent_image")}
        inputs = {"model": ["model", 0], **given, **ITSELF[kind, name], name: value}
        return prompt | around | {"tried": {"class_type": kind, "inputs": inputs}}
    prompt["tried"] = {"class_type": kind, "inputs": {**ALONE[kind, name], name: value}}
    return prompt | {"shown": {"class_type": "PreviewAny", "inputs": {"source": ["tried", 0]}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outside") / "comfyui"


@pytest.fixture(scope="module")
def server(comfyui, folder):
    with serve(comfyui, folder) as running:
        yield running


@pytest.fixture(scope="module")
def answers(server, folder) -> dict[tuple[str, str], list[str]]:
    """By node and input what came of every text: "" for a run, else the host's words."""
    found = {}
    for kind, name in (*ALONE, *AFTER, *ITSELF):
        found[kind, name] = []
        for text in TEXTS:
            for linked in (False, True):
                try:
                    server.run(
                        graph(kind, name, text.replace("OUTSIDE", str(folder.parent)), linked), lambda *progress: None
                    )
                    found[kind, name].append("")
                except HostError as error:
                    found[kind, name].append(str(error))
    return found


def test_every_text_input_of_our_nodes_is_tried(server):
    known = set()
    for node, info in server.object_info().items():
        for part in info["input"].values() if node.startswith("AdaCache") else ():
            known |= {(node, name) for name, (type_, *_) in part.items() if type_ == "STRING"}
    assert known == {*ALONE, *AFTER, *ITSELF}


@pytest.mark.parametrize(("kind", "name"), [*ALONE, CALIBRATE, MEASURE])  # any text is an inspector's title
def test_the_answer_is_a_run_or_an_error_that_names_the_input(answers, kind, name):
    said = answers[kind, name]
    assert len([each for each in said if each]) > len(said) / 3
    for each in filter(None, said):
        if each.startswith("/prompt: "):
            errors = json.loads(each.removeprefix("/prompt: "))["node_errors"]["tried"]["errors"]
            assert {error["type"] for error in errors} == {"custom_validation_failed"}
            assert name in {error["extra_info"]["input_name"] for error in errors}  # beside others that it looks at
        else:
            assert each.startswith(f"{kind}: ")


def test_any_text_is_an_inspectors_title(answers):
    assert set(answers[TITLE]) == {""}


def test_no_traceback_but_of_our_own_sentences(answers, server, folder):
    log = (folder / "server.log").read_text(errors="replace")
    ends = re.findall(r"^.*Traceback .*\n(?:[ \t].*\n|\n)*(\S.*)", log, re.MULTILINE)
    assert ends
    assert not [end for end in ends if "AdaCacheError" not in end]
    assert server.object_info(), "it still answers"


def test_only_codebooks_are_written_and_only_in_their_folder(answers, folder):
    books = list((folder / "models").rglob("*"))
    assert {path.parent for path in books if path.is_file()} == {folder / "models" / "adacache"}
    for path in books:
        assert path.is_dir() or codebook_from_json(path.read_text())
    assert not list(folder.parent.rglob("*escaped*"))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    usual = {"custom_nodes", "input", "models", "output", "temp", "user", "server.log"}
    assert {path.name for path in folder.iterdir()} <= usual
