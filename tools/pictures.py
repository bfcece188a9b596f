"""The pictures of the template browser and of the README, from runs of the demos on a real server.

`python -m tools.pictures` writes `workflows/*.jpg` and `docs/images/side_by_side.webp`. A thumbnail of a demo is a
frame of its video above the steps it was given; one of a workflow that was not run here says what it is for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from adacache_core import RunReport
from adacache_core.tell.canvas import PANEL, PAPER, Page
from adacache_core.tell.picture import INK, SERIES, draw
from tools.host import PLACES, ROOT, find_host
from tools.server import Server, serve

WORKFLOWS = ROOT / "workflows"
SHOWN = "demo_wan_tiny"  # in the README
CLIP = ROOT / "docs" / "images" / "side_by_side.webp"
SIDE = 400  # pixels of a thumbnail
CHAIN = ("model", "AdaCache", "sampler")
MEASURES = ("model", "Measure", "figures")
# What the video of a demo is shown in, and where among the outputs of an inspector its report is.
VIDEO, INSPECTOR, REPORT = ("AdaCacheCompare", "SaveAnimatedWEBP"), "AdaCacheInspector", 3
MEASURE = "measure_on_your_model"
CARDS = {  # the other workflows: they need models of many GB
    "wan_t2v_adacache": ("Wan 2.1", "text to video"),
    "wan_i2v_adacache": ("Wan 2.1", "image to video"),
    "hunyuan_video_adacache": ("HunyuanVideo", "text to video"),
    "ltxv_adacache": ("LTX-Video", "text to video"),
    "minimax_h3_adacache": ("MiniMax-H3", "text to video with sound"),
    "wan22_14b_adacache": ("Wan 2.2 14B", "text to video"),
    "ltx2_adacache": ("LTX-2.3", "text to video with sound"),
    MEASURE: ("Your model", "what AdaCache brings"),
}


def main() -> int:
    host = find_host()
    if host is None:
        print(f"no ComfyUI was found (looked at {PLACES})", file=sys.stderr)
        return 1
    for name, words in CARDS.items():
        save(card(*words, MEASURES if name == MEASURE else CHAIN), name)
    with tempfile.TemporaryDirectory() as work, serve(host, Path(work)) as server:
        info = server.object_info()
        for path in sorted(WORKFLOWS.glob("demo_*.json")):
            print(f"running {path.stem} ...", flush=True)
            video, reports = run(server, info, json.loads(path.read_text()))
            save(of_a_run(video, reports), path.stem)
            if path.stem == SHOWN:
                CLIP.write_bytes(without_metadata(video))
    return 0


def run(server: Server, info: dict[str, Any], workflow: dict[str, Any]) -> tuple[bytes, list[RunReport]]:
    """The video file, and the reports of all inspectors in the order of the workflow."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    prompt = convert_ui_to_api(workflow, info)
    inspectors = sorted((node for node, each in prompt.items() if each["class_type"] == INSPECTOR), key=int)
    for node in inspectors:
        prompt[f"text of {node}"] = {"class_type": "PreviewAny", "inputs": {"source": [node, REPORT]}}
    outputs = server.run(prompt, lambda *progress: None)
    (file,) = (outputs[node]["images"][0] for node, each in prompt.items() if each["class_type"] in VIDEO)
    return server.view(file), [RunReport.from_json(outputs[f"text of {node}"]["text"][0]) for node in inspectors]


def save(picture: Image.Image, name: str) -> None:
    picture.save(WORKFLOWS / f"{name}.jpg", quality=88)
    print(f"wrote {name}.jpg")


def without_metadata(video: bytes) -> bytes:
    """The same frames, without the workflow that they were saved with, in fewer bytes."""
    with Image.open(BytesIO(video)) as clip:
        frames = [(frame.copy(), frame.info["duration"]) for frame in ImageSequence.Iterator(clip)]
    (first, *rest), durations = zip(*frames, strict=True)
    written = BytesIO()
    first.save(
        written, "WEBP", save_all=True, append_images=rest, duration=durations, quality=80, method=6, loop=0, exif=b""
    )
    return written.getvalue()


def of_a_run(video: bytes, reports: Sequence[RunReport]) -> Image.Image:
    """A frame of the video, and beneath it which steps were computed."""
    with Image.open(BytesIO(video)) as clip:
        clip.seek(clip.n_frames // 2)
        frame = clip.convert("RGB")
    frame = frame.resize((SIDE, round(frame.height * SIDE / frame.width)), Image.Resampling.LANCZOS)
    steps = draw([only_steps(report) for report in reports], SIDE)
    picture = Image.new("RGB", (SIDE, SIDE), PAPER)
    air = (SIDE - frame.height - steps.height) // 3
    picture.paste(frame, (0, air))
    picture.paste(steps, (0, 2 * air + frame.height))
    return picture


def only_steps(report: RunReport) -> RunReport:
    """What is drawn of it is its strip alone, and no time that this machine happened to take."""
    nothing = dict.fromkeys(("error", "metric", "motion", "moreg", "rate", "seconds", "own_seconds"))
    bare = [replace(each, **nothing) for each in report.evaluations]
    return replace(report, evaluations=bare, model="", notes=[], cache_bytes_max=0)


def card(name: str, what: str, chain: Sequence[str]) -> Image.Image:
    """Of a workflow that was not run here: its model, and where AdaCache goes."""
    page = Page(SIDE, 1000, 1, {})
    page.text(500, 300, name, 100, INK, anchor="mm")
    page.text(500, 410, what, 58, INK, anchor="mm")
    width, gap, top, height = 260, 60, 600, 130
    for place, word in enumerate(chain):
        left = 50 + place * (width + gap)
        page.box(left, top, left + width, top + height, SERIES[0][0] if place == 1 else PANEL)
        page.text(left + width / 2, top + height / 2, word, 52, PAPER if place == 1 else INK, anchor="mm")
        if place:
            page.line([(left - gap + 6, top + height / 2), (left - 6, top + height / 2)], INK, 6)
            page.mark((left - 18, top + height / 2), 14, INK, 0)
    return page.finished()


if __name__ == "__main__":
    sys.exit(main())
