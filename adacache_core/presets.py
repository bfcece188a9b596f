"""Published tables as data, each with its source; one that we tuned, and our settings without a table."""

from __future__ import annotations

from .config import CacheConfig, Codebook, MotionConfig, Quality, Target

# AdaCache-DiT/AdaCache, commit 2c6d3ca: Open-Sora 1.2, 30 steps, "fast".
FAST_30 = Codebook(((0.08, 6), (0.16, 5), (0.24, 4), (0.32, 3), (0.40, 2), (1.00, 1)), 30, "fast")

# The same source: Open-Sora 1.2, 30 steps, "slow".
SLOW_30 = Codebook(((0.08, 3), (0.16, 2), (0.24, 1), (0.32, 1), (0.40, 1), (1.00, 1)), 30, "slow")

# The same source: 100 steps.
FAST_100 = Codebook(((0.03, 12), (0.05, 10), (0.07, 8), (0.09, 6), (0.11, 4), (1.00, 3)), 100, "fast")

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

# MoReg's first and last step, counted from 1, both included, for 30 and for 100 steps. Same source.
MOREG_WINDOW_30 = (4, 26)
MOREG_WINDOW_100 = (10, 90)


def auto(target: float, moreg: MotionConfig | None = None) -> CacheConfig:
    """Our best settings for a wanted speed-up, on any model; see `output.py`.

    Args:
        target: counted in model evaluations, >= 1.
        moreg: motion regularisation, which does nothing here; the report says so.
    """
    return CacheConfig(Target(target), moreg)


def quality(closeness: float) -> CacheConfig:
    """As few steps as a wanted closeness to the video without AdaCache takes, on any model.

    Args:
        closeness: in dB; see `estimate.py`.
    """
    return CacheConfig(Quality(closeness))
