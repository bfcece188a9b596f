"""Motion regularisation (MoReg), in both published forms: the reference code and equation 9 of the paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..config import MotionConfig


def motion_sums(probe: Tensor, frames: int, strides: tuple[int, ...]) -> Tensor:
    """Sums from which `motion_score` is made, one row per stride.

    Args:
        probe: residual of the video tokens, (batch, frames * positions, width), frame-major.
        frames: number of latent frames.
        strides: frame distances.

    Returns:
        float32, (strides, 3): ||later - earlier||_1, ||later||_1, ||earlier||_1.
    """
    by_frame = rearrange(probe, "b (t s) c -> t b s c", t=frames)
    rows = []
    for stride in strides:
        later, earlier = by_frame[stride:], by_frame[: max(0, frames - stride)]
        rows.append(torch.stack([part.abs().sum(dtype=torch.float32) for part in (later - earlier, later, earlier)]))
    return torch.stack(rows)


def motion_score(sums: Tensor) -> Tensor:
    """m = ||later - earlier||_1 / (||later||_1 + ||earlier||_1) in [0, 1], mean over strides; 0-dim."""
    return (sums[:, 0] / (sums[:, 1] + sums[:, 2])).mean()


@dataclass(frozen=True)
class MotionFactor:
    """What MoReg multiplies the change with, and how it came about (0-dim tensors)."""

    base: Tensor  # before the gradient; the next metric's gradient starts from it
    gradient: Tensor  # with its sign
    factor: Tensor


def reference_factor(m: Tensor, previous: Tensor, rate: int, config: MotionConfig) -> MotionFactor:
    """factor = (m / pivot) ** power / divisor, plus the absolute gradient, as in the published code."""
    base = ((1 / config.pivot) * m) ** config.power / config.divisor
    return with_gradient(base, previous, rate, config)


def with_gradient(base: Tensor, previous: Tensor, rate: int, config: MotionConfig) -> MotionFactor:
    """Outside MoReg's window the base is one, but the gradient still counts, as in the reference."""
    gradient = config.gradient * (base - previous) / rate
    return MotionFactor(base, gradient, base + gradient.abs())


def paper_factor(m: Tensor, previous: Tensor | None, rate: int) -> MotionFactor:
    """m + mg with mg = (m - m_previous) / rate: equation 9 read literally. No gradient at first."""
    gradient = torch.zeros_like(m) if previous is None else (m - previous) / rate
    return MotionFactor(m, gradient, m + gradient)
