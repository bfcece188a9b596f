"""Which evaluation computes: the controller of AdaCache, fed with numbers and knowing no model.

Settings are `CacheConfig`; everything that evolves is in a `BlockController`, one per sampling run.

The clock is the sampler *step*, counted from 0, not the model evaluation: a rate of 6 means that the
sixth step after the last computed one computes again, at its first evaluation, and that all further
evaluations of the steps between (heun has two per step) are reused. Rate 1 computes every evaluation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import CacheConfig, Codebook
from .change import change_per_step
from .motion import MotionFactor, motion_score, paper_factor, reference_factor, with_gradient
from .scaling import scale_codebook, scale_window

OUTSIDE = "outside start..end"

PROTECTED_END = 2  # the last steps are always computed, as in the reference


@dataclass(frozen=True)
class Decision:
    """What an evaluation does, and why in one word."""

    compute: bool
    reason: str


@dataclass(frozen=True)
class Reading:
    """One probe at one computed step. Numbers are 0-dim tensors; None where MoReg is off."""

    relative: Tensor  # ||p_new - p_old|| / ||p_old||
    per_step: Tensor  # ... / planned distance
    mean: Tensor  # running mean of per_step over the probes of this step
    planned: int  # steps, the rate in force until now
    motion: Tensor | None
    previous_base: Tensor | None
    moreg: MotionFactor | None
    metric: Tensor  # mean * moreg factor ** strength
    rate: int  # what the codebook says


class BlockController(ABC):
    """What any controller of blocks does in one run: ask `decide`, tell `computed`, and `observe` what was measured.

    Args:
        config: settings.
        steps: number of sampler steps N of the run.
        ends_at_zero: whether the run finishes the video (its last sigma is 0). Only then are its
            last two steps protected; the first stage of a two-stage run has no end to protect.

    Attributes:
        rate: in force, the distance in steps from the last computed one to the next.
    """

    dtype = torch.float32  # of the arithmetic on the sums; thresholds are compared in it
    table = ""  # the codebook that is asked, "" if none is
    never_skips = False  # whether it is known before the run that nothing can be reused

    def __init__(self, config: CacheConfig, steps: int, *, ends_at_zero: bool = True) -> None:
        self.config = config
        self.steps = steps
        self.ends_at_zero = ends_at_zero
        self.rate = 1
        self._last_computed: int | None = None
        self._last_observed = -1
        self._previous_base: dict[str, Tensor] = {}

    def forced(self, step: int) -> str:
        """Why this step is computed whatever is measured, "" if it may be reused."""
        if step == 0:
            return "first step"
        if self.ends_at_zero and step >= self.steps - PROTECTED_END:
            return "last steps"
        return self.outside(step)

    def outside(self, step: int) -> str:
        """That this step is not between start and end, "" if it is."""
        return "" if self.config.start <= step / self.steps < self.config.end else OUTSIDE

    @abstractmethod
    def decide(self, step: int) -> Decision:
        """Whether an evaluation of this step (0..N-1) computes."""

    def rate_for(self, metric: Tensor) -> int:
        """Steps to the next computed one after a change of so much per step."""
        return 1

    def wants_metric(self, step: int) -> bool:
        """Only the first evaluation of a new step is measured: the others are less than a step away."""
        return step > self._last_observed

    def computed(self, step: int) -> None:
        """An evaluation of this step was computed as decided."""
        self._last_computed = step
        self._last_observed = max(step, self._last_observed)

    def observe(self, step: int, probes: Mapping[str, tuple[Tensor, Tensor | None]]) -> dict[str, Reading]:
        """Takes in what a computed step measured and sets the rate.

        Call it before `computed`. Several probes: the metric is the mean of their changes times the MoReg
        factor of the last one, as in the reference.

        Args:
            step: 0..N-1.
            probes: name -> (change sums (2,), motion sums (strides, 3) or None), in network order, on
                the CPU. Motion None: MoReg has no frames to look at and is left out.

        Returns:
            One reading per probe, in order; the last one's rate is in force.
        """
        readings: dict[str, Reading] = {}
        mean = torch.zeros((), dtype=self.dtype)
        planned = self.rate
        for count, (name, (change, motion)) in enumerate(probes.items()):
            relative, per_step = change_per_step(change.to(self.dtype), planned)
            mean = (per_step + count * mean) / (count + 1)
            m, previous, moreg = self._regularise(name, step, motion, planned)
            metric = mean if moreg is None else mean * self._strengthened(moreg.factor)
            rate = self.rate_for(metric)
            readings[name] = Reading(relative, per_step, mean, planned, m, previous, moreg, metric, rate)
            self.rate = rate
        return readings

    def in_moreg_window(self, step: int) -> bool:
        """Whether MoReg looks at this step; its bounds count steps from 1 and are both included."""
        assert self.config.moreg is not None
        if self.config.moreg.window is None:
            first, last = scale_window(self.steps)
            return first <= step + 1 <= last
        start, end = self.config.moreg.window
        return start <= (step + 1) / self.steps <= end

    def _regularise(
        self, name: str, step: int, motion: Tensor | None, planned: int
    ) -> tuple[Tensor | None, Tensor | None, MotionFactor | None]:
        config = self.config.moreg
        if config is None or motion is None:
            return None, None, None
        one = torch.ones((), dtype=self.dtype)
        m = motion_score(motion.to(self.dtype)) if self.in_moreg_window(step) else None
        if config.form == "paper":
            previous = self._previous_base.get(name)
            if m is None:
                return None, previous, None
            moreg = paper_factor(m, previous, planned)
        else:
            previous = self._previous_base.get(name, one)
            if m is None:
                moreg = with_gradient(one, previous, planned, config)
            else:
                moreg = reference_factor(m, previous, planned, config)
        self._remember(name, moreg.base)
        return m, previous, moreg

    def _remember(self, name: str, base: Tensor) -> None:
        """A factor that is not a number must not spoil the next step as well."""
        if math.isfinite(base):
            self._previous_base[name] = base

    def _strengthened(self, factor: Tensor) -> Tensor:
        strength = self.config.moreg.strength if self.config.moreg else 1.0
        return factor if strength == 1.0 else factor**strength


class ScheduleState(BlockController):
    """The controller of a codebook, which is scaled to the run's number of steps; arguments as of `BlockController`."""

    def __init__(self, config: CacheConfig, steps: int, *, ends_at_zero: bool = True) -> None:
        super().__init__(config, steps, ends_at_zero=ends_at_zero)
        assert isinstance(config.policy, Codebook)
        self.codebook = scale_codebook(config.policy, steps)
        self.table = str(self.codebook)
        self.never_skips = self.codebook.never_skips

    def decide(self, step: int) -> Decision:
        if self._last_computed is None:
            return Decision(True, "first step")
        forced = self.forced(step)
        if forced:
            return Decision(True, forced)
        if self.rate == 1:
            return Decision(True, "rate 1" if self._last_observed > 0 else "no metric yet")
        if step >= self._last_computed + self.rate:
            return Decision(True, "due")
        return Decision(False, f"rate {self.rate}")

    def rate_for(self, metric: Tensor) -> int:
        return self.codebook.rate_for(metric)


class WatchState(BlockController):
    """A controller that computes and measures every step."""

    def decide(self, step: int) -> Decision:
        return Decision(True, "watched")
