"""AdaCache: adaptive caching of diffusion transformers (arXiv 2411.02397), without a host.

What to reuse and when. Needs torch, numpy, einops; works on any module whose blocks sit in a
ModuleList or ModuleDict.
"""

from .config import CacheConfig
from .decide.codebook import Codebook
from .decide.fixed import Fixed, Off
from .decide.motion import MotionConfig
from .decide.quality import Quality
from .decide.target import Target
from .decide.watch import Watch
from .engine import Engine
from .errors import AdaCacheError
from .loop import AdaCache
from .presets import FAST_30, FAST_100, PRESETS, SLOW_30, TABLES, TUNED_30, auto
from .reuse.layout import Grid, Head, StackLayout
from .schedule import Schedule, average
from .tell.report import RunReport, StepRecord

__all__ = [
    "FAST_30",
    "FAST_100",
    "PRESETS",
    "SLOW_30",
    "TABLES",
    "TUNED_30",
    "AdaCache",
    "AdaCacheError",
    "CacheConfig",
    "Codebook",
    "Engine",
    "Fixed",
    "Grid",
    "Head",
    "MotionConfig",
    "Off",
    "Quality",
    "RunReport",
    "Schedule",
    "StackLayout",
    "StepRecord",
    "Target",
    "Watch",
    "auto",
    "average",
]
