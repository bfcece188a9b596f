"""The paper's metric: how much the residual of one block changes per step, times a factor for motion (MoReg)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .base import Controller
from .change import change_per_step
from .motion import MotionConfig, MotionFactor, motion_score, paper_factor, reference_factor, with_gradient
from .scaling import scale_window


@dataclass(frozen=True)
class Sums:
    """What the probe of a computed step measured, on the CPU.

    Attributes:
        change: as of `change_sums`, (2,).
        motion: as of `motion_sums`, (strides, 3); None: MoReg is off, or the frames are not known.
    """

    change: Tensor
    motion: Tensor | None = None


@dataclass(frozen=True)
class Reading:
    """What the sums of one step say; `motion` and `moreg` are None where MoReg has no part in it."""

    metric: float  # change per step, times the MoReg factor
    motion: float | None
    moreg: float | None


@dataclass(frozen=True)
class BlockState:
    """What a run that reuses residuals of blocks has shown so far.

    Attributes:
        rate: the distance in steps from the last computed step to the next.
        last: last computed step, None before the first.
        measured: last step that needs no more measuring.
        base: MoReg's factor before its gradient, at the step measured last; None: not measured yet.
        reading: of the step measured last.
    """

    rate: int = 1
    last: int | None = None
    measured: int = -1
    base: Tensor | None = None
    reading: Reading | None = None


class BlockController(Controller[BlockState, Sums]):
    """A controller of a run that reuses residuals of blocks.

    All evaluations of a step that is skipped are reused. At a rate of 6 the sixth step after the last computed one
    computes again, at its first evaluation; at a rate of 1 every evaluation computes.
    """

    @property
    def table(self) -> str:
        """The codebook in force, as text; "" if there is none."""
        return ""

    def begin(self) -> BlockState:
        return BlockState()

    def measures(self, state: BlockState, step: int) -> bool:
        """Whether a computed evaluation of this step is to be measured."""
        return False

    def computed(self, state: BlockState, step: int, measured: Sums | None = None) -> BlockState:
        return replace(state, last=step, measured=max(step, state.measured))


@dataclass(frozen=True)
class MetricController(BlockController):
    """One that measures how the probe residual changes.

    Attributes:
        moreg: motion regularisation; None: the plain metric.
    """

    moreg: MotionConfig | None

    def rate_for(self, metric: Tensor) -> int:
        """Steps to the next computed one, after a metric of so much (0-dim)."""
        return 1

    def measures(self, state: BlockState, step: int) -> bool:
        """Only the first evaluation of a new step: the others are less than a step away."""
        return step > state.measured

    def computed(self, state: BlockState, step: int, measured: Sums | None = None) -> BlockState:
        return super().computed(state if measured is None else self._read(state, step, measured), step)

    def _read(self, state: BlockState, step: int, sums: Sums) -> BlockState:
        _, metric = change_per_step(sums.change, state.rate)
        motion, factor = self.regularise(step, sums.motion, state.base, state.rate)
        base = state.base
        if factor is not None:
            metric = metric * self.strengthened(factor.factor)
            base = factor.base if math.isfinite(factor.base) else base  # else it would spoil the next step as well
        reading = Reading(
            metric=float(metric),
            motion=None if motion is None else float(motion),
            moreg=None if factor is None else float(factor.factor),
        )
        return replace(state, rate=self.rate_for(metric), base=base, reading=reading)

    def in_moreg_window(self, step: int) -> bool:
        """Whether MoReg looks at this step; its bounds count steps from 1 and are both included."""
        assert self.moreg is not None
        if self.moreg.window is None:
            first, last = scale_window(self.course.steps)
            return first <= step + 1 <= last
        start, end = self.moreg.window
        return start <= (step + 1) / self.course.steps <= end

    def regularise(
        self, step: int, sums: Tensor | None, base: Tensor | None, rate: int
    ) -> tuple[Tensor | None, MotionFactor | None]:
        """Motion, and what MoReg makes of it; None where it has no part in this step.

        Args:
            step: of the sampler.
            sums: as of `motion_sums`, (strides, 3).
            base: as of `BlockState.base`.
            rate: planned distance since the step before.
        """
        if self.moreg is None or sums is None:
            return None, None
        motion = motion_score(sums) if self.in_moreg_window(step) else None
        if self.moreg.form == "paper":
            return motion, None if motion is None else paper_factor(motion, base, rate)
        one = torch.ones((), dtype=sums.dtype)
        before = one if base is None else base
        if motion is None:
            return None, with_gradient(one, before, rate, self.moreg)
        return motion, reference_factor(motion, before, rate, self.moreg)

    def strengthened(self, factor: Tensor) -> Tensor:
        """The factor that counts."""
        strength = 1.0 if self.moreg is None else self.moreg.strength
        return factor if strength == 1.0 else factor**strength
