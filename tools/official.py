"""The first table of docs/compatibility.md: what AdaCache does in ComfyUI's official templates.

    .nox/test/bin/pytest tests/e2e/test_official.py --junitxml=official.xml -o junit_family=xunit1
    .nox/test/bin/python -m tools.compatibility official.xml

stores the results of that test in docs/official.json, and writes the page.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tools.host import ROOT
from tools.markdown import table

STORED = ROOT / "docs" / "official.json"
SWITCHED = "test_with_its_switch_for_few_steps"  # the test of templates with a LoRA for few steps
OURS = "test_a_workflow_of_ours"

MODELS = {  # beginning of a template's name -> name of the model
    "video_minimax_h3": "MiniMax-H3",
    "video_wan2_2_14B": "Wan 2.2 14B",
    "video_ltx2_3": "LTX-2.3",
    "video_ltx2_5": "LTX-2.5",
    "video_ltx2": "LTX-2",
    "text_to_video_wan": "Wan 2.1",
}
MUCH = 1 / 3  # share of skipped steps from which on AdaCache "helps"

ABOUT = """\
## In the official templates of ComfyUI

**works**: the template ran to its end on a real server, with AdaCache put in by the command *Speed up this workflow
with AdaCache*. With preset `off`, every latent was the same as without AdaCache, bit for bit. With `auto` at 2x, the
report gave the number of model calls that we counted. **helps**: how many steps `auto` skipped, for each pass of the
template.

Nodes, samplers and steps are those of the template. The weights were tiny and random (LTX-2.5 used those of LTX-2.3),
the videos were small, and simple stand-ins replaced text encoders and VAEs. On your video, AdaCache may skip more steps
or fewer. **This table does not say how close a video comes:** see [the small models that we trained](benchmarks.md)
and, for real weights, [what people measured](measured.md). The template *measure_on_your_model* measures your model;
please share the result."""


def save(host: str, junit: Path) -> None:
    """Stores the results of a JUnit file of the test."""
    made = f"`tests/e2e/test_official.py`, {date.today().isoformat()}, ComfyUI {host}, CPU."
    stored = {"made": made, "templates": read(junit)}
    STORED.write_text(json.dumps(stored).replace('{"name"', '\n{"name"') + "\n")


def read(junit: Path) -> list[dict[str, Any]]:
    """For each tested template its name, title, outcome, counts and notes."""
    found = []
    for case in ElementTree.parse(junit).getroot().iter("testcase"):  # noqa: S314 (ours)
        test, _, name = case.get("name", "").removesuffix("]").partition("[")
        if not name or test.startswith(OURS):
            continue
        skipped = case.find("skipped")
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if failed else "yes" if skipped is None else skipped.get("message", "not run")
        noted = {each.get("name"): each.get("value", "") for each in case.iter("property")}
        found.append(
            {
                "name": name,
                "title": noted.get("title", name) + (" with its LoRA for few steps" if test == SWITCHED else ""),
                "outcome": outcome,
                "counted": json.loads(noted.get("counted", "[]")),
                "notes": json.loads(noted.get("notes", "[]")),
            }
        )
    return found


def section() -> str:
    """The stored results in Markdown. Templates of a model with the same result share a row."""
    stored = json.loads(STORED.read_text())
    rows: dict[tuple[str, str, str], list[str]] = {}
    for each in stored["templates"]:
        model = next(model for start, model in MODELS.items() if each["name"].startswith(start))
        rows.setdefault((model, each["outcome"], helps(each["counted"], each["notes"])), []).append(each["title"])
    order = list(MODELS.values())
    ordered = sorted(rows, key=lambda row: order.index(row[0]))
    found = table(["model", "works", "helps", "official templates"], ([*row, "; ".join(rows[row])] for row in ordered))
    return "\n".join([ABOUT, "", stored["made"], "", found])


def helps(counted: list[list[int]], notes: list[str]) -> str:
    """How many steps were skipped, and why not more."""
    if not counted:
        return "–"
    share = 1 - sum(computed for computed, _ in counted) / sum(total for _, total in counted)
    passes = " and ".join(f"{total - computed} of {total}" for computed, total in counted)
    if share >= MUCH:
        return f"yes: {passes} steps skipped"
    why = f" ({notes[0].partition(':')[0].partition(';')[0]})" if notes else ""
    return f"{'a little' if share else 'no'}: {passes} steps skipped{why}"
