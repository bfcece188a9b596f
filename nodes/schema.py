"""What all nodes share: category, custom types, pictures, and what an older host does not know."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

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


def as_image(picture: Image.Image) -> Tensor:
    """The picture as an IMAGE of one frame, (1, height, width, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
