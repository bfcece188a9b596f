"""AdaCache: adaptive caching of diffusion transformers (arXiv 2411.02397), without a host.

What to reuse and when. Needs torch, numpy, einops; works on any module whose blocks sit in a
ModuleList or ModuleDict.
"""

from .config import CacheConfig, Codebook, Fixed, MotionConfig, Off, Quality, Target, Watch
from .decide.codebook import ScheduleState
from .decide.scaling import scale_codebook, scale_rates, scale_window
from .engine import AdaCache, Engine, simulate
from .errors import AdaCacheError
from .presets import FAST_30, FAST_100, PRESETS, SLOW_30, TABLES, TUNED_30, auto
from .reuse.stack import Grid, StackLayout
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
    "MotionConfig",
    "Off",
    "Quality",
    "RunReport",
    "Schedule",
    "ScheduleState",
    "StackLayout",
    "StepRecord",
    "Target",
    "Watch",
    "auto",
    "average",
    "scale_codebook",
    "scale_rates",
    "scale_window",
    "simulate",
]
