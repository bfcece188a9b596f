"""What decides which steps of a run are computed: policies, and the controllers they make.

A policy is what somebody asked for; it is the same for every run. It makes a controller, which belongs to one run.
Both are frozen. What a run has shown so far is a state, which is passed in and out (as in diffrax's step-size
controllers). A policy and its controllers share a file.

Steps are the sampler's, counted from 0. A step may have several model evaluations: heun has two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .motion import MotionConfig

PROTECTED_END = 2  # the last steps are always computed, as in the reference: nothing corrects what they get wrong


@dataclass(frozen=True)
class Decision:
    """Whether an evaluation computes, and why, in a few words."""

    compute: bool
    reason: str


@dataclass(frozen=True)
class Course:
    """What is known of a run before it begins.

    Attributes:
        steps: number of sampler steps.
        ends: whether the run finishes the video (its last noise level is 0). The first of two samplers does not, so it
            has no last steps to protect.
        always: steps that are computed in any case, and why.
        levels: noise levels as a flow model has them, falling, (steps + 1,); empty: not known.
        evaluations: how often the sampler evaluates the model at each step, (steps,); empty: once.
        guidance: strength of classifier-free guidance; 1 is none.
    """

    steps: int
    ends: bool = True
    always: Mapping[int, str] = field(default_factory=dict)
    levels: Sequence[float] = ()
    evaluations: Sequence[int] = ()
    guidance: float = 1.0

    @classmethod
    def along(
        cls,
        levels: Sequence[float],
        always: Mapping[int, str] | None = None,
        evaluations: Sequence[int] = (),
        guidance: float = 1.0,
    ) -> Course:
        """A run whose levels are known; arguments as of the attributes."""
        return cls(len(levels) - 1, levels[-1] == 0, always or {}, levels, evaluations, guidance)

    def forced(self, step: int) -> str:
        """Why this step is computed in any case, "" if it may be reused."""
        protected = self.ends and step >= self.steps - PROTECTED_END
        return self.always.get(step, "last steps" if protected else "")

    def cost(self, step: int) -> int:
        """Evaluations of a step."""
        return self.evaluations[step] if self.evaluations else 1

    @property
    def cost_of_all(self) -> int:
        return sum(map(self.cost, range(self.steps)))


State = TypeVar("State")
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Controller(ABC, Generic[State, Measured]):
    """Decides which steps of one run are computed.

    Attributes:
        course: of the run.
    """

    course: Course

    @property
    def never_skips(self) -> bool:
        """Whether it is known before the run that every step will be computed."""
        return False

    @abstractmethod
    def begin(self) -> State:
        """The state of a run that begins."""

    @abstractmethod
    def decide(self, state: State, step: int) -> Decision:
        """Whether an evaluation of this step computes."""

    @abstractmethod
    def computed(self, state: State, step: int, measured: Measured | None = None) -> State:
        """The state after an evaluation that was computed; `measured` is None where nothing was measured."""


class Policy(ABC):
    """What decides which steps of a run are computed.

    Attributes:
        at_output: whether whole evaluations are skipped and their output is forecast (`reuse/output.py`). Otherwise
            residuals of blocks are reused (`reuse/stack.py`).
        settled: whether it is known before a run which of its steps are computed.
    """

    at_output: bool = False
    settled: bool = False

    @property
    def never_skips(self) -> bool:
        """Whether nothing is reused in a run of any length, and nothing is measured."""
        return False

    @abstractmethod
    def controller(self, course: Course, moreg: MotionConfig | None = None) -> Controller[Any, Any]:
        """The controller of one run.

        Args:
            course: of the run; with its noise levels if `at_output`.
            moreg: motion regularisation, for policies that measure blocks; others ignore it.
        """
