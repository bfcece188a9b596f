"""AdaCache: adaptive caching of diffusion transformers (arXiv 2411.02397), without a host.

What to reuse and when. Needs torch, numpy, einops; works on any module whose blocks sit in a
ModuleList or ModuleDict.
"""

from .config import CacheConfig, Codebook, Fixed, MotionConfig, Off, Quality, Target, Watch
from .engine import AdaCache, Engine, simulate
from .errors import AdaCacheError
from .plan import Schedule, average
from .presets import FAST_30, FAST_100, PRESETS, SLOW_30, TABLES, TUNED_30, auto
from .report import RunReport, StepRecord
from .scaling import scale_codebook, scale_rates, scale_window
from .schedule import ScheduleState
from .stack import Grid, StackLayout

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
