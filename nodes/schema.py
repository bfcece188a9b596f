"""What all nodes share: category, custom types, and what an older host does not know."""

from __future__ import annotations

import inspect

from comfy_api.latest import io

CATEGORY = "model/patch/AdaCache"

AdaCacheCodebookType = io.Custom("ADACACHE_CODEBOOK")
AdaCacheMoRegType = io.Custom("ADACACHE_MOREG")
AdaCacheScheduleType = io.Custom("ADACACHE_SCHEDULE")
AdaCacheReportType = io.Custom("ADACACHE_REPORT")

# Widgets for experts fold away from host 0.10 on; older hosts raise on the keyword and show them.
ADVANCED = {"advanced": True} if "advanced" in inspect.signature(io.Float.Input.__init__).parameters else {}

_KNOWS_ALIASES = "search_aliases" in inspect.signature(io.Schema.__init__).parameters


def found_by(*words: str) -> dict[str, list[str]]:
    """What people type who look for a node and do not know its name; older hosts search names only."""
    return {"search_aliases": list(words)} if _KNOWS_ALIASES else {}
