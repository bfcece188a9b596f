"""What the published code does and we do not, as small subclasses of our own classes.

Most are in docs/method.md ("On purpose different from the reference"); each is a numbered rule of `golden/README.md`,
named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from adacache_core import CacheConfig, Codebook, MotionConfig
from adacache_core.decide.base import Course
from adacache_core.decide.change import change_per_step
from adacache_core.decide.codebook import CodebookController
from adacache_core.decide.metric import BlockState, Sums

TESTED_THRESHOLDS = 5


class ReferenceCodebook(Codebook):
    """Takes any table, and looks at its first five thresholds in the order written (rules 23 and 25)."""

    def __post_init__(self) -> None:
        pass

    def rate_for(self, metric) -> int:
        for index in range(TESTED_THRESHOLDS):
            threshold, rate = self.entries[index]
            if metric < threshold:
                return rate
        return self.entries[-1][1]


@dataclass(frozen=True)
class Settings:
    """The `params` of a golden case in our words."""

    config: CacheConfig
    steps: int
    moreg_steps: tuple[int, int]

    @classmethod
    def from_params(cls, params: Mapping) -> Settings:
        if params["norm_p"] != 1:
            raise ValueError(f"only the 1-norm is known, got norm_p {params['norm_p']}")
        codebook = ReferenceCodebook(tuple(map(tuple, params["codebook"])), params["num_steps"])
        moreg = None
        if params["apply_moreg"]:
            pivot, power, divisor, _unused = params["moreg_hyp"]
            strides, gradient = tuple(params["moreg_strides"]), params["mograd_mul"]
            moreg = MotionConfig(strides=strides, pivot=pivot, power=power, divisor=divisor, gradient=gradient)
        return cls(CacheConfig(codebook, moreg, probe_stride=1), params["num_steps"], tuple(params["moreg_steps"]))


@dataclass(frozen=True)
class ReferenceController(CodebookController):
    """A codebook's controller whose MoReg window is given in steps, and may lie beyond the last one (rule 14)."""

    moreg_steps: tuple[int, int]

    def in_moreg_window(self, step: int) -> bool:
        first, last = self.moreg_steps
        return first <= step + 1 <= last


class ReferenceRun:
    """One video: any number of probes, and every call of the metric written down as in the golden traces.

    The metric is the mean of the probes' changes, times the MoReg factor of the last one.

    Args:
        settings: of the case.
        dtype: of the metric's arithmetic (rule 33).
        before: the run of the video before, whose MoReg factors leak into this one (rule 20).
    """

    def __init__(
        self, settings: Settings, dtype: torch.dtype = torch.float32, before: ReferenceRun | None = None
    ) -> None:
        config, course = settings.config, Course(settings.steps)
        self.controller = ReferenceController(course, config.moreg, config.policy, settings.moreg_steps)
        self.config, self.steps, self.dtype = config, settings.steps, dtype
        self.state = self.controller.begin()
        self.bases = dict(before.bases) if before else {}
        self.calls: list[dict] = []

    @property
    def rate(self) -> int:
        return self.state.rate

    def decides_to_compute(self, step: int) -> bool:
        return self.controller.decide(self.state, step).compute

    def computed(self, step: int, probes: Mapping[str, Sums]) -> None:
        """A computed step, and what its probes measured, in network order."""
        before, planned, mean = self.state, self.state.rate, torch.zeros((), dtype=self.dtype)
        for count, (name, sums) in enumerate(probes.items()):
            motion = sums.motion
            if motion is None and self.config.moreg is not None:  # frames that are not there give 0/0 (rule 22)
                motion = torch.zeros(len(self.config.moreg.strides), 3)
            motion = None if motion is None else motion.to(self.dtype)
            relative, per_step = change_per_step(sums.change.to(self.dtype), planned)
            mean = (per_step + count * mean) / (count + 1)
            base = self.bases.get(name)
            m, moreg = self.controller.regularise(step, motion, base, planned)
            metric = mean if moreg is None else mean * moreg.factor
            self.state = replace(self.state, rate=self.controller.rate_for(metric))
            if moreg is not None:
                self.bases[name] = moreg.base  # not a number or not (rule 25)
            call = {"block": name, "step": step + 1, "probe_index": count}
            call |= {"in_window": None if self.config.moreg is None else self.controller.in_moreg_window(step)}
            call |= {"prev_rate": planned, "raw_diff": float(relative), "step_diff": float(per_step)}
            call |= {"sync_diff": float(mean), "metric": float(metric), "new_rate": self.rate}
            call |= {"prev_moreg": 1.0, "mograd": 0.0, "moreg": 1.0}
            if moreg is not None:
                call |= {"prev_moreg": 1.0 if base is None else float(base), "moreg_base": float(moreg.base)}
                call |= {"mograd": float(moreg.gradient), "moreg": float(moreg.factor)}
            if m is not None:
                call["motion"] = float(m)
            self.calls.append(call)
            if len(probes) == 1 and self.dtype == torch.float32 and (base is None or base.isfinite()):
                self._as_shipped(replace(before, base=base), step, Sums(sums.change, motion))
        self.state = self.controller.computed(self.state, step)

    def _as_shipped(self, before: BlockState, step: int, sums: Sums) -> None:
        """With one probe the controller that the pack ships says the same."""
        shipped = self.controller.computed(before, step, sums)
        assert shipped.reading is not None
        assert (shipped.rate, str(shipped.reading.metric)) == (self.rate, str(self.calls[-1]["metric"]))
