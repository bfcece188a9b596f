"""ComfyUI's frontend in a browser's page: workflows put into it, and what it complains about."""

from __future__ import annotations

import json

from e2e.browser import Page

# A file that is not there is not ours, and the browser may be without a network; the last is the frontend's own word
# at every start.
NOT_OURS = ("Failed to load resource", "ComfyApp graph accessed before initialization")


def load(page: Page, workflow: dict) -> None:
    """Opens a workflow; what was complained about before is forgotten."""
    page.complaints.clear()
    page.evaluate(f"app.loadGraphData({json.dumps(workflow)})")
    page.wait_for(f"app.graph.nodes.length == {len(workflow['nodes'])}")


def complaints(page: Page) -> list[str]:
    return [each for each in page.complaints if not each.startswith(NOT_OURS)]
