"""Motion regularisation (MoReg), in both published forms: the reference code and equation 9 of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..documents import is_count
from ..errors import AdaCacheError


@dataclass(frozen=True)
class MotionConfig:
    """Motion regularisation (MoReg) of the paper: more compute where there is more motion.

    Attributes:
        strength: exponent on the finished factor; 0 has no effect, 1 is as published.
        window: (start, end) as fractions of the sampler steps in [0, 1], both ends included; None is
            the published one (steps 4..26 of 30, 10..90 of 100).
        strides: frame distances over which motion is measured, in latent frames >= 1.
        pivot, power, divisor: factor = (motion / pivot) ** power / divisor.
        gradient: weight of the motion gradient.
        form: "reference" (the published code: 8th power, absolute gradient) or "paper"
            (equation 9: motion + motion gradient; pivot, power, divisor and gradient are not used).

    Raises:
        AdaCacheError: names the setting that is wrong.
    """

    strength: float = 1.0
    window: tuple[float, float] | None = None
    strides: tuple[int, ...] = (1,)
    pivot: float = 0.385
    power: float = 8.0
    divisor: float = 1.0
    gradient: float = 10.0
    form: str = "reference"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise AdaCacheError(f"MoReg strength must be >= 0, got {self.strength}; start from 1.0")
        if self.window is not None and not 0 <= self.window[0] <= self.window[1] <= 1:
            raise AdaCacheError(f"the MoReg window must be two rising fractions in [0, 1], got {self.window}")
        if not self.strides or not all(is_count(stride) for stride in self.strides):
            raise AdaCacheError(f"MoReg strides must be whole numbers of frames >= 1, got {self.strides}; start from 1")
        if not (self.pivot > 0 and self.divisor > 0):
            raise AdaCacheError(f"MoReg pivot and divisor must be > 0, got {self.pivot} and {self.divisor}")
        if not (math.isfinite(self.power) and math.isfinite(self.gradient)):
            raise AdaCacheError(f"MoReg power and gradient must be finite, got {self.power} and {self.gradient}")
        if self.form not in ("reference", "paper"):
            raise AdaCacheError(f"MoReg form is 'reference' or 'paper', got {self.form!r}")


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
