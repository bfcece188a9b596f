"""The nodes, one (or one small family) per file. Schema and a few lines; the work is done elsewhere."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import AdaCacheApply
from .calibrate import AdaCacheCalibrate
from .codebook import AdaCacheCodebook
from .compare import AdaCacheCompare
from .demo.model import AdaCacheDemoModel
from .demo.preview import AdaCacheLatentPreview
from .demo.prompt import AdaCacheDemoPrompt
from .inspector import AdaCacheInspector
from .measure import AdaCacheMeasure
from .moreg import AdaCacheMoReg
from .schedule import AdaCacheSchedule


class AdaCacheExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            AdaCacheApply,
            AdaCacheCodebook,
            AdaCacheMoReg,
            AdaCacheCalibrate,
            AdaCacheInspector,
            AdaCacheSchedule,
            AdaCacheCompare,
            AdaCacheMeasure,
            AdaCacheDemoModel,
            AdaCacheDemoPrompt,
            AdaCacheLatentPreview,
        ]


async def comfy_entrypoint() -> AdaCacheExtension:
    return AdaCacheExtension()
