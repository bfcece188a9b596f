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
