"""Codebooks by name, published and our own, and the settings of presets auto and quality."""

from __future__ import annotations

from .config import CacheConfig
from .decide import published
from .decide.codebook import Codebook
from .decide.quality import Quality
from .decide.target import Target

FAST_30 = Codebook(published.FAST_30, 30, "fast")
SLOW_30 = Codebook(published.SLOW_30, 30, "slow")
FAST_100 = Codebook(published.FAST_100, 100, "fast")

# Ours, beyond the paper: chosen among a dozen tables on 6 videos of the demo model (30 Euler steps, cfg 4), on which a
# fixed interval with as many computed steps beats the published ones. docs/benchmarks.md has other videos.
TUNED_30 = Codebook(((0.06, 4), (0.10, 3), (0.22, 2), (1.00, 1)), 30, "tuned")

PRESETS = {"fast": FAST_30, "slow": SLOW_30}

TABLES = {
    "fast, 30 steps": FAST_30,
    "slow, 30 steps": SLOW_30,
    "fast, 100 steps": FAST_100,
    "tuned, 30 steps": TUNED_30,
}


def auto(target: float) -> CacheConfig:
    """Our best settings for a wanted speed-up, on any model; see `output.py`.

    Args:
        target: counted in model evaluations, >= 1.
    """
    return CacheConfig(Target(target))


def quality(closeness: float) -> CacheConfig:
    """As few steps as a wanted closeness to the video without AdaCache takes, on any model.

    Args:
        closeness: in dB; see `closeness.py`.
    """
    return CacheConfig(Quality(closeness))
