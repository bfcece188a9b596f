"""Preset auto: as many steps as a wanted speed-up leaves, where this video needs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import AdaCacheError
from .base import Course, Policy
from .error_control import ErrorController, ErrorState
from .motion import MotionConfig

# A video's share is what the speed-up leaves of all evaluations. Of what it would take beyond its share, or leave of
# it, it is given so much (in logs), and never less or more of its share than LEAST and MOST. Nor does an easy video
# skip more than SKIPPED_MORE beyond what was asked for. So runs come near the wanted speed-up, and hard videos still
# get more steps than easy ones.
GIVEN = 0.85
GIVEN_LEAST, GIVEN_MOST = 0.87, 1.2
SKIPPED_MORE = 0.13

GUARD = 0.02  # the largest tolerance, whatever speed-up is asked for: beyond it people see the difference

SHORT = 0.9  # of the target: a lower speed-up is worth a sentence


@dataclass(frozen=True)
class Target(Policy):
    """A wanted speed-up.

    Attributes:
        speedup: counted in model evaluations, from 1 (nothing is skipped).

    Raises:
        AdaCacheError: it is below 1.
    """

    speedup: float
    at_output = True

    def __post_init__(self) -> None:
        if not 1 <= self.speedup < math.inf:
            raise AdaCacheError(f"the target is a speed-up of at least 1, got {self.speedup}; start from 2")

    @property
    def never_skips(self) -> bool:
        return self.speedup == 1

    def controller(self, course: Course, moreg: MotionConfig | None = None) -> TargetController:
        return TargetController(course, self.speedup)


@dataclass(frozen=True)
class TargetController(ErrorController):
    """Brings the run near a number of evaluations, unless that would change the video visibly.

    Attributes:
        target: wanted speed-up, counted in evaluations.
    """

    target: float

    @property
    def speedup(self) -> float:
        """Of a video of usual hardness, in evaluations."""
        return self.course.cost_of_all / self._to_come(0, None, 1.0, self._usual_tolerance)[0]

    @cached_property
    def what_differs(self) -> str:
        if self.speedup > SHORT * self.target:
            return ""
        most = self.course.cost_of_all / self._to_come(0, None, 1.0, math.inf)[0]
        if most < SHORT * self.target:
            return f"{self.target:g}x cannot be reached in {self.course.steps} steps: too many are always computed"
        about = f"{self.speedup:.1f}x"
        instead = "hardly any step is skipped" if about == "1.0x" else f"AdaCache aims at about {about}"
        return f"{self.target:g}x would change this video visibly, so {instead}"

    def end(self, state: ErrorState) -> ErrorState | None:
        return None if self.course.ends else replace(state, spare=self._share(state) - state.evaluations)

    @cached_property
    def _usual_tolerance(self) -> float:
        return self._tolerance_for(0, None, 1.0, self.course.cost_of_all / self.target)

    def _share(self, state: ErrorState) -> float:
        """Evaluations of this run by the target, with what the run before has left of its own."""
        return max(self.course.cost_of_all / self.target + state.spare, 1.0)

    def _allowing(self, state: ErrorState, step: int) -> ErrorState:
        share, hardness, spent = self._share(state), state.hardness, state.evaluations
        would = spent + self._to_come(step + 1, step, hardness, self._usual_tolerance)[0]
        given = math.exp(GIVEN * math.log(would / share))
        fewest = max(GIVEN_LEAST * share, share - SKIPPED_MORE * (self.course.cost_of_all - share))
        goal = min(max(given * share, fewest), GIVEN_MOST * share)
        allowed = self._tolerance_for(step + 1, step, hardness, goal - spent)
        expected, least = (spent + self._to_come(step + 1, step, hardness, each)[0] for each in (allowed, math.inf))
        return replace(state, allowed=allowed, guarded=state.guarded or SHORT * expected > max(goal, least))

    def _tolerance_for(self, step: int, last: int | None, hardness: float, evaluations: float) -> float:
        """With which so many are computed from this step on, unless the guard forbids it; see `_to_come`."""
        few = self._tolerance(lambda each: self._to_come(step, last, hardness, each)[0] <= evaluations + 0.5)[1]
        return min(few, GUARD)
