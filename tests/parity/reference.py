"""What the published code does and we do not, as small subclasses of our own classes.

Most are in docs/method.md ("On purpose different from the reference"); each is a numbered rule of `golden/README.md`,
named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adacache_core import CacheConfig, Codebook, MotionConfig, ScheduleState

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


class ReferenceState(ScheduleState):
    """The controller of one video, writing down every call of the metric as the golden traces do.

    Args:
        settings: of the case.
        dtype: of the metric's arithmetic (rule 33).
        before: the controller of the video before, whose MoReg factors leak into this one (rule 20).
    """

    def __init__(
        self, settings: Settings, dtype: torch.dtype = torch.float32, before: ReferenceState | None = None
    ) -> None:
        super().__init__(settings.config, settings.steps)
        self.dtype = dtype
        self._settings = settings
        self._previous_base = dict(before._previous_base) if before else {}
        self.calls: list[dict] = []

    def in_moreg_window(self, step: int) -> bool:
        """The window is given in steps and may lie beyond the last one (rule 14)."""
        first, last = self._settings.moreg_steps
        return first <= step + 1 <= last

    def observe(self, step: int, probes):
        moreg = self.config.moreg
        if moreg is not None:  # frames that are not there give 0/0 (rule 22)
            nothing = torch.zeros(len(moreg.strides), 3)
            probes = {
                name: (change, nothing if motion is None else motion) for name, (change, motion) in probes.items()
            }
        readings = super().observe(step, probes)
        in_window = None if moreg is None else self.in_moreg_window(step)
        for index, (name, reading) in enumerate(readings.items()):
            self.calls.append({"block": name, "step": step + 1, "probe_index": index, "in_window": in_window})
            self.calls[-1] |= _numbers(reading)
        return readings

    def _remember(self, name: str, base: Tensor) -> None:
        self._previous_base[name] = base  # not a number or not (rule 25)


def _numbers(reading) -> dict:
    """A reading under the names of the golden traces, which leave out what was not worked out."""
    numbers = {
        "prev_rate": reading.planned,
        "raw_diff": float(reading.relative),
        "step_diff": float(reading.per_step),
        "sync_diff": float(reading.mean),
        "prev_moreg": 1.0,
        "mograd": 0.0,
        "moreg": 1.0,
        "metric": float(reading.metric),
        "new_rate": reading.rate,
    }
    if reading.moreg is not None:
        numbers["prev_moreg"] = float(reading.previous_base)
        numbers["moreg_base"] = float(reading.moreg.base)
        numbers["mograd"] = float(reading.moreg.gradient)
        numbers["moreg"] = float(reading.moreg.factor)
    if reading.motion is not None:
        numbers["motion"] = float(reading.motion)
    return numbers
