"""The workflows that are shipped, as files."""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "workflows"
WORKFLOWS = sorted(path.stem for path in FOLDER.glob("*.json"))
DEMOS = [name for name in WORKFLOWS if name.startswith("demo_")]  # those whose model comes along


def read_workflow(name: str) -> dict:
    """In the frontend's format."""
    return json.loads((FOLDER / f"{name}.json").read_text())
