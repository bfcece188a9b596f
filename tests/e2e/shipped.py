"""The workflows that are shipped, as files."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows"
WORKFLOWS = sorted(path.stem for path in FOLDER.glob("*.json"))


def read_workflow(name: str) -> dict:
    """In the frontend's format."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def with_steps(workflow: dict, steps: int) -> dict:
    """The workflow, its KSamplers with so many steps."""
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = steps
    return workflow
