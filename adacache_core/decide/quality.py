"""Preset quality: as few steps as a wanted closeness to the video without AdaCache allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from ..closeness import deviation_of
from ..errors import AdaCacheError
from .base import Course, Policy
from .error_control import TIMES_PREDICTED, ErrorController, ErrorState, times_predicted
from .motion import MotionConfig

# If a video was harder than it looked and deviates too much already, computing all that is left would not undo it. So
# the rest of a run may always add this part of the deviation that is allowed in all.
ANYWAY = 0.25

OF_BOTH = 0.5  # of the deviation: the part of a first sampler, which does not know what the second will do


@dataclass(frozen=True)
class Quality(Policy):
    """A wanted closeness.

    Attributes:
        closeness: in dB; see `closeness.py`.

    Raises:
        AdaCacheError: it is not a finite number.
    """

    closeness: float
    at_output = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.closeness):
            raise AdaCacheError(f"closeness is a number of dB, got {self.closeness}; start from 25")

    def controller(self, course: Course, moreg: MotionConfig | None = None) -> QualityController:
        return QualityController(course, deviation_of(self.closeness))


@dataclass(frozen=True)
class QualityController(ErrorController):
    """Keeps the deviation of the finished latent within a limit.

    Attributes:
        deviation: the limit; see `error_control.py`.
    """

    deviation: float

    @property
    def _of_this_run(self) -> float:
        return self.deviation * (1.0 if self.course.ends else OF_BOTH)

    @cached_property
    def _usual_tolerance(self) -> float:
        return self._tolerance_within(0, None, 1.0, self._of_this_run / TIMES_PREDICTED)

    def _allowing(self, state: ErrorState, step: int) -> ErrorState:
        limit = self._of_this_run
        left = max(limit - state.deviation, ANYWAY * limit) / times_predicted(state, limit)
        return replace(state, allowed=self._tolerance_within(step + 1, step, state.hardness, left))
