"""Steps that are known before the run: those of a schedule, or all of them."""

from __future__ import annotations

from dataclasses import dataclass

from ..schedule import Schedule
from .base import Course, Decision, Policy
from .error_control import ErrorController, ErrorState
from .metric import BlockController, BlockState
from .motion import MotionConfig


@dataclass(frozen=True)
class Fixed(Policy):
    """The steps of a schedule, whatever is measured.

    Attributes:
        schedule: stretched to the run's number of steps. The last steps of a run are as they are in it.
        at_output: see `Policy`.
    """

    schedule: Schedule
    at_output: bool = True
    settled = True

    @property
    def never_skips(self) -> bool:
        return all(self.schedule.computed)

    def controller(
        self, course: Course, moreg: MotionConfig | None = None
    ) -> FixedBlockController | FixedOutputController:
        planned = self.schedule.for_steps(course.steps).computed
        return FixedOutputController(course, planned) if self.at_output else FixedBlockController(course, planned)


@dataclass(frozen=True)
class Off(Policy):
    """Every step; nothing is measured or touched."""

    at_output = True  # it does not look into the model
    settled = True

    @property
    def never_skips(self) -> bool:
        return True

    def controller(self, course: Course, moreg: MotionConfig | None = None) -> FixedBlockController:
        return FixedBlockController(course, (True,) * course.steps)


def _planned(course: Course, planned: tuple[bool, ...], last: int | None, step: int) -> Decision:
    reason = "first step" if last is None else course.always.get(step, "")
    return Decision(True, reason) if reason else Decision(planned[step], "as planned")


@dataclass(frozen=True)
class FixedBlockController(BlockController):
    """Computes the planned steps and measures nothing.

    Attributes:
        planned: whether each step is computed, (steps,).
    """

    planned: tuple[bool, ...]

    @property
    def never_skips(self) -> bool:
        return all(self.planned)

    def decide(self, state: BlockState, step: int) -> Decision:
        return _planned(self.course, self.planned, state.last, step)


@dataclass(frozen=True)
class FixedOutputController(ErrorController):
    """Computes the planned steps. Errors are added up for the estimate; they decide nothing.

    Attributes:
        planned: whether each step is computed, (steps,).
    """

    planned: tuple[bool, ...]

    @property
    def never_skips(self) -> bool:
        return all(self.planned)

    def decide(self, state: ErrorState, step: int) -> Decision:
        return _planned(self.course, self.planned, state.last, step)

    @property
    def _usual_tolerance(self) -> float:
        return 0.0

    def _allowing(self, state: ErrorState, step: int) -> ErrorState:
        return state
