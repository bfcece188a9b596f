"""Stores what this version promises to keep: its workflows, and the inputs and outputs of its nodes.

`tests/e2e/test_released.py` checks that later versions keep it. Run it once for each version; see docs/releasing.md.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.host import PLACES, ROOT, find_host
from tools.server import serve

RELEASED = ROOT / "tests" / "released"


def main() -> int:
    version = version_of_pack()
    workflows, nodes = RELEASED / version, RELEASED / f"{version}_nodes.json"
    if workflows.exists():
        print(f"{version} is frozen already, and a released version does not change", file=sys.stderr)
        return 1
    host = find_host()
    if host is None:
        print(f"no ComfyUI was found (looked at {PLACES})", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as work, serve(host, Path(work)) as server:
        promised = promises(server.object_info())
    shutil.copytree(ROOT / "workflows", workflows, ignore=shutil.ignore_patterns("*.jpg"))
    nodes.write_text(json.dumps(promised, indent=2) + "\n")
    print(f"wrote {workflows} and {nodes}")
    return 0


def version_of_pack() -> str:
    return re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def promises(object_info: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """What saved workflows rely on, for each of our nodes: names of inputs and types of outputs, in order.

    The order is the frontend's, with optional inputs last, because saved values have no names, only an order.
    """
    return {
        node: {
            "inputs": [name for part in ("required", "optional") for name in info["input"].get(part, {})],
            "outputs": info["output"],
        }
        for node, info in sorted(object_info.items())
        if node.startswith("AdaCache")
    }


if __name__ == "__main__":
    sys.exit(main())
