"""Writes docs/measured.md: what people measured on their own models. `python -m tools.measured [FOLDER]`

Reads the files that AdaCache Measure saves (by default `docs/measured/*.json`). If a file is not as the node wrote it,
prints its name and the fault, and writes nothing. With `--demo`, first runs the template with the demo model, to make
our own file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from adacache_core import AdaCacheError
from adacache_core.tell.measured import CLOSENESS, RUNS, SPEEDUP, Measured
from tools.host import PLACES, ROOT, HostError, find_host
from tools.markdown import table
from tools.server import Server, serve

FILES = ROOT / "docs" / "measured"
# A link to the web, because an installed pack contains the page but not the files.
ONLINE = "https://github.com/comfyui-adacache/ComfyUI-AdaCache/blob/main/docs/measured"
PAGE = ROOT / "docs" / "measured.md"
TEMPLATE = ROOT / "workflows" / "measure_on_your_model.json"
DEMO = "demo_model"  # our own file
LARGEST = 5_000_000  # bytes; a file with runs of a hundred steps has a fiftieth of that

# In place of the user's choices.
DEMO_WORDS = {"shape": "circle", "count": "one", "colour": "red", "motion": "slow", "direction": "right"}
DEMO_WORDS |= {"background": "dark"}
DEMO_SIZE = {"width": 128, "height": 128, "length": 29, "batch_size": 1}
DEMO_SETTINGS = {"cfg": 4.0, "title": "our small demo model, on a CPU"}

INTRODUCTION = f"""\
# Measured by users

`python -m tools.measured` writes this page from the files in [docs/measured]({ONLINE}). Do not edit it by hand.

**Is your model missing?** Open the template *measure_on_your_model* in ComfyUI, choose your model, press Run, and
[upload the file here](https://github.com/comfyui-adacache/ComfyUI-AdaCache/issues/new?template=measured.yml). The file
contains nothing of your prompt.

Each row is one video, made three times from the same noise: without AdaCache, with `auto` at {SPEEDUP:g}x, and with
`quality` at {CLOSENESS:g} dB. *Faster* compares the seconds of sampling on that machine. *Closeness* is the
signal-to-noise ratio of the finished latent, in dB: from 25 dB on, a difference is hard to see. In brackets is the
closeness that AdaCache itself [expected](estimates.md), with its range. `demo_model` is our own small model, run on a
CPU. It comes with AdaCache and says little about large models."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FILES)
    parser.add_argument("--demo", action="store_true", help=f"make {DEMO}.json in the folder first, in your ComfyUI")
    options = parser.parse_args(arguments)
    if options.demo:
        host = find_host()
        if host is None:
            print(f"no ComfyUI was found (looked at {PLACES})", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory() as work, serve(host, Path(work)) as server:
            text, _ = run(server, demo_prompt(server.object_info()))
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / f"{DEMO}.json").write_text(text, encoding="utf-8")
    found, wrong = read(options.folder)
    for each in wrong:
        print(each, file=sys.stderr)
    if wrong or not found:
        print(f"nothing was written: {len(wrong)} files of {len(wrong) + len(found)} are wrong", file=sys.stderr)
        return 1
    PAGE.write_text(page(found), encoding="utf-8")
    print(f"written: {PAGE}, from {len(found)} files")
    return 0


def read(folder: Path) -> tuple[dict[str, Measured], list[str]]:
    """Name of a file, without ending -> its content; and a line for each file that is wrong."""
    found: dict[str, Measured] = {}
    texts: dict[str, str] = {}
    wrong = []
    for path in sorted(folder.glob("*.json")):
        try:
            if not re.fullmatch(r"[a-z0-9_.-]+", path.stem):
                raise AdaCacheError("its name may only have small letters, digits, dots, - and _")
            if path.stat().st_size > LARGEST:
                raise AdaCacheError(f"it has {path.stat().st_size} bytes; at most {LARGEST} are allowed")
            text = path.read_text(encoding="utf-8")
            measured = Measured.from_json(text)
            if text in texts:
                raise AdaCacheError(f"it is the same as {texts[text]}.json")
        except (AdaCacheError, UnicodeDecodeError) as error:
            wrong.append(f"{path.name}: {error}")
        else:
            found[path.stem] = measured
            texts[text] = path.stem
    return found, wrong


def page(found: dict[str, Measured]) -> str:
    heads = ["model", "steps, sampler", "latent", "on"]
    heads += [f"{name}: {what}" for name in RUNS[1:] for what in ("computed, faster", "closeness (expected)")]
    rows = [_row(name, measured) for name, measured in found.items()]
    return "\n".join([INTRODUCTION, "", table(heads, rows), "", *_inside(found)]) + "\n"


def _row(name: str, measured: Measured) -> list[str]:
    settings = measured.settings
    latent = f"{settings.frames} x {settings.height} x {settings.width}"
    cells = [f"[{plainly(settings.name)}]({ONLINE}/{name}.json)", plainly(settings.sampling), latent]
    cells.append(plainly(f"{settings.device}, ComfyUI {settings.comfyui}, AdaCache {settings.adacache}"))
    for which in RUNS[1:]:
        run, speedup = measured.runs[which], measured.speedup(which)
        faster = "–" if speedup is None else f"{speedup:.2f}x"
        cells.append(f"{run.report.computed} of {run.report.total}, {faster}")
        cells.append(_closeness(measured, which))
    return cells


def _closeness(measured: Measured, which: str) -> str:
    run = measured.runs[which]
    expected, likeness = run.report.expected, run.likeness
    assert likeness is not None, "every run but the plain one has it"
    came = "equal" if likeness.closeness == float("inf") else f"{likeness.closeness:.1f}"
    said = "no estimate" if expected is None else f"{expected.db:.0f}, {expected.low:.0f} to {expected.high:.0f}"
    return f"**{came}** ({said})" if run.place else f"{came} ({said})"


def _inside(found: dict[str, Measured]) -> list[str]:
    """How many runs are inside their expected range."""
    counts = []
    for which in RUNS[1:]:
        places = [place for each in found.values() if (place := each.runs[which].place) is not None]
        closer, less = places.count(1), places.count(-1)
        counts.append(f"with `{which}` {places.count(0)} of {len(places)} ({closer} closer, {less} less close)")
    return [
        f"The expected range should hold nine of ten videos. Inside it: {', '.join(counts)}. Bold figures are "
        "outside their range. Runs without an estimate, such as those with samplers that draw fresh noise, do not "
        "count."
    ]


def plainly(text: str) -> str:
    """A stranger's text with all markup and links escaped."""
    return re.sub(r"([\\`*_\[\]<>|&~#@:/!]|(?<=www)\.)", r"\\\1", text)


def demo_prompt(object_info: dict[str, Any]) -> dict[str, Any]:
    """The template in API format, with the demo model in place of the user's."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    prompt = convert_ui_to_api(json.loads(TEMPLATE.read_text(encoding="utf-8")), object_info)
    (measure,) = (node for node, each in prompt.items() if each["class_type"] == "AdaCacheMeasure")
    given = prompt[measure]["inputs"]
    instead = {
        "model": ("AdaCacheDemoModel", {}),
        "positive": ("AdaCacheDemoPrompt", {**DEMO_WORDS, "empty": False}),
        "negative": ("AdaCacheDemoPrompt", {**DEMO_WORDS, "empty": True}),
        "latent_image": ("EmptyHunyuanLatentVideo", DEMO_SIZE),
    }
    for name, (kind, inputs) in instead.items():
        prompt[given[name][0]] = {"class_type": kind, "inputs": inputs}
    given |= DEMO_SETTINGS
    return {node: each for node, each in prompt.items() if each["class_type"] != "CLIPLoader"}


def run(server: Server, prompt: dict[str, Any]) -> tuple[str, bytes]:
    """Runs the prompt; returns the file that its AdaCache Measure saves, and the picture."""
    (measure,) = (node for node, each in prompt.items() if each["class_type"] == "AdaCacheMeasure")
    (picture,) = server.run(prompt, lambda *progress: None)[measure]["images"]
    file = picture | {"filename": picture["filename"].removesuffix(".png") + ".json"}
    return server.view(file).decode(), server.view(picture)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HostError as error:
        sys.exit(f"error: {error}")
