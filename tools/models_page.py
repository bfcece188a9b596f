"""Writes docs/models.md from the table of families: `python -m tools.models_page`."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from tools.host import ROOT
from tools.markdown import table

PAGE = ROOT / "docs" / "models.md"

INTRODUCTION = """\
# Models

`python -m tools.models_page` writes this page from the table in `nodes/host/families.py`. Another page says [what we
tried with each model](compatibility.md).

Presets auto and quality work on any model and need no row here. The paper's tables (fast, slow or a codebook) and watch
use the residuals of a model's blocks, so they need a row for the model. A model without a row is tried with the row of
its base class, or of a model with the same parts: the first step checks whether that works, and if not, every step is
computed. If no row fits, the AdaCache node raises an error that names the model's class. To get the model added, open
an issue with that name."""

NEVER = "On these models auto and quality compute every step; the tables and watch raise an error."


def families() -> ModuleType:
    """Imports `nodes/host/families.py` without its package, because only the package needs ComfyUI."""
    for name, folder in (("pack", ROOT), ("pack.nodes", ROOT / "nodes"), ("pack.nodes.host", ROOT / "nodes" / "host")):
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__ = [str(folder)]
    return importlib.import_module("pack.nodes.host.families")


def page() -> str:
    known = families()
    rows = []
    for family in sorted(known.FAMILIES, key=lambda family: family.name.lower()):
        classes = "<br>".join(f"`{name.removeprefix('comfy.ldm.')}`" for name in family.classes)
        blocks = ", ".join(f"`{path}`" for path in family.layout.blocks)
        heads = ", ".join(f"`{head.path}`" for head in family.layout.heads) or "what follows the last block"
        rows.append([family.name, classes, blocks, heads])
    left_out = [(f"`{name.removeprefix('comfy.ldm.')}`", why) for name, why in sorted(known.LEFT_OUT.items())]
    return "\n\n".join(
        [
            INTRODUCTION,
            table(["model", "classes of ComfyUI", "blocks skipped", "residual added to the input of"], rows),
            "## Left out on purpose",
            NEVER,
            table(["class of ComfyUI", "because"], left_out) + "\n",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"written: {PAGE}")
