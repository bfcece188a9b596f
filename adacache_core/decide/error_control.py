"""Controllers that decide by the errors of forecasts. Beyond the paper; presets auto and quality use them.

At a computed step the forecast that would have replaced it is compared with what the model says. This error tells how
far the next forecast may reach. Solvers of differential equations choose their step sizes this way (Hairer, Norsett,
Wanner, "Solving Ordinary Differential Equations I", II.4; diffrax's `AbstractStepSizeController` has the same shape).
Here the steps are the sampler's, so the controller only decides whether to compute one.

All of it is arithmetic with a few numbers per step. The *deviation* of a run is the mean squared difference between its
finished latent and the one that all steps computed would have made, relative to the mean square of the latent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from ..closeness import STRONG
from .base import Controller, Decision
from .levels import growth, log_snr, usual_error

FARTHEST = 1 / 5  # of a run: no forecast reaches further from the last computed step

# A video's hardness follows from the mean log of its errors over the usual ones. Each older error counts MEMORY times
# as much as the next one, and the mean begins as if DOUBT usual errors had been seen. Above the level TELLING, near
# pure noise, errors say nothing about the rest of the video (on the demo model hard videos have the smaller errors
# there), unless they are ALARMING.
DOUBT, MEMORY = 0.5, 0.7
TELLING, ALARMING = 0.95, math.log(2.0)

# Strong guidance multiplies the errors of the first forecasts, before any error has shown how hard the video is. So
# from guidance STRONG on, a run that begins at noise computes its first EARLY steps. Chosen on the demo model with
# eight of the benchmark's own videos (Euler, 20 steps, shift 5, four videos each, at no more work). PSNR, mean / worst
# video: cfg 7, 29.1 / 23.9 -> 40.7 / 33.3 dB; cfg 5, 36.7 / 31.0 -> 40.7 / 38.1; but at cfg 4 the mean falls:
# 40.5 / 34.4 -> 39.8 / 38.0.
EARLY = 3

# Hard videos are hard in two ways: their forecasts are worse, and the same error changes them more.
STRESS = 1.5

# A computed step shows how far off the latent was (`correct/corrector.py`), and most of that is corrected. This part of
# it stays in the finished video: exp(LEFT_RISE * level - LEFT_AT_ZERO) * guidance ** LEFT_FALL. Found on four to eight
# videos of the demo model in each of twelve conditions, at 1.5x, 2x and 3x.
LEFT_RISE, LEFT_AT_ZERO, LEFT_FALL = 4.6, 2.16, -0.37

# In those runs the deviation was so many times what the errors of forecasts alone predict. A run's own ratio takes over
# once PRIOR of the deviation that it is allowed has shown.
TIMES_PREDICTED = 5.7
PRIOR = 0.1

ROUNDS = 20  # of bisection, when a tolerance is looked for
LOWEST, HIGHEST = -14.0, 4.0  # logs of tolerances


@dataclass(frozen=True)
class Found:
    """What a computed step shows.

    Attributes:
        error: of the forecast that would have replaced it: root mean square over that of the velocity. None: there was
            no forecast.
        latent_error: how far off the latent was, root mean square, as a flow model has it; None: not known.
        power: mean square of the denoised latent.
    """

    error: float | None = None
    latent_error: float | None = None
    power: float = 1.0


@dataclass(frozen=True)
class ErrorState:
    """What a run that forecasts its output has shown so far.

    Attributes:
        allowed: the tolerance in force.
        last: the computed step that forecasts start from, None before the first.
        evaluations: computed so far.
        errors: how many forecasts have been compared with the model.
        total, weight: of the logs of errors over usual ones: sum, and sum of weights.
        guarded: whether the guard gives this video more evaluations than its share (see `target.py`).
        spare: evaluations that the sampler before this one left of its share; below 0 it took more.
        predicted: the deviation so far, as the errors of forecasts predict it.
        shown: the deviation so far times `power`, as the errors of latents show it.
        power: mean square of the denoised latent, at the last computed step.
    """

    allowed: float
    last: int | None = None
    evaluations: int = 0
    errors: int = 0
    total: float = 0.0
    weight: float = 0.0
    guarded: bool = False
    spare: float = 0.0
    predicted: float = 0.0
    shown: float = 0.0
    power: float = 1.0

    @property
    def deviation(self) -> float:
        """Of the finished latent, as far as it is known."""
        return self.shown / self.power if self.power else 0.0

    @property
    def hardness(self) -> float:
        """How many times as much a skipped step changes this video as a usual one."""
        return _stressed(self.total / (self.weight + DOUBT))


def _stressed(log: float) -> float:
    """Hardness, from the log of an error over the usual one; see STRESS."""
    return math.exp(STRESS * log if log > 0 else log)


@dataclass(frozen=True)
class ErrorController(Controller[ErrorState, Found]):
    """Computes a step where reusing it would bring the deviation above a tolerance.

    The tolerance holds for one stretch of reused steps: the root of the deviation that it may cause. Subclasses say how
    large it is; they may change it at every computed step.
    """

    @cached_property
    def log_snrs(self) -> tuple[float, ...]:
        """Of the course's levels, (steps + 1,)."""
        return tuple(map(log_snr, self.course.levels))

    @cached_property
    def _weights(self) -> tuple[float, ...]:
        """By step: what a usual error of the velocity at distance 1 does to the finished latent."""
        levels = self.course.levels
        return tuple(growth(level) * usual_error(level) * abs(below - level) for level, below in pairwise(levels))

    @cached_property
    def _costs(self) -> tuple[tuple[float, ...], ...]:
        """Of stretches, by the last computed step and the number of steps reused after it."""
        reach = range(math.floor(FARTHEST * self.course.steps) + 1)
        return tuple(tuple(self._stretch(last, last + far) for far in reach) for last in range(self.course.steps))

    def _stretch(self, last: int, step: int) -> float:
        """Root of the deviation of a usual video, if the steps after `last` up to this one are reused.

        The correction brings the velocities between two computed steps onto the straight line between them, so what is
        left of an error grows from both ends.
        """
        if step >= self.course.steps:
            return math.inf
        start, end = self.log_snrs[last], self.log_snrs[step + 1]
        if start == end:
            return 0.0
        between = range(last + 1, step + 1)
        at = self.log_snrs
        return sum(self._weights[j] * (at[j] - start) * (end - at[j]) / (end - start) for j in between)

    @property
    def never_skips(self) -> bool:
        return all(self._forced(step, step - 1) for step in range(1, self.course.steps))

    @property
    def what_differs(self) -> str:
        """How this run will differ from what was asked for, in a sentence; "" if it will not."""
        return ""

    def begin(self, before: ErrorState | None = None) -> ErrorState:
        """The state of a run that begins.

        Args:
            before: what `end` gave of the run that made half of this video; None: it is made from the start.
        """
        allowed = self._usual_tolerance
        if before is None:
            return ErrorState(allowed)
        return replace(before, allowed=allowed, last=None, evaluations=0, guarded=False)

    def end(self, state: ErrorState) -> ErrorState | None:
        """What a run that continues with this one's latent should know; None if the video is finished."""
        return None if self.course.ends else state

    def decide(self, state: ErrorState, step: int) -> Decision:
        if state.last is None:
            return Decision(True, "first step")
        forced = self._forced(step, state.last)
        if forced:
            return Decision(True, forced)
        compute = state.hardness * self._costs[state.last][step - state.last] > state.allowed
        return Decision(compute, "tolerance reached" if compute else "below tolerance")

    def _forced(self, step: int, last: int) -> str:
        """Why this step is computed whatever its reuse would cost, "" if it need not be."""
        forced = self.course.forced(step)
        if not forced and step < EARLY and self.course.guidance >= STRONG and self.course.levels[0] > TELLING:
            forced = "first steps, strong guidance"
        too_far = step - last > FARTHEST * self.course.steps
        return forced or ("far from the last computed step" if too_far else "")

    def computed(self, state: ErrorState, step: int, measured: Found | None = None) -> ErrorState:
        found = measured or Found()
        state = replace(state, evaluations=state.evaluations + self.course.cost(step), power=found.power)
        if state.last is not None:
            state = self._deviated(state, step, found)
            if found.error is not None:
                state = self._learned(state, step, found.error)
        return self._allowing(replace(state, last=step), step)

    def would_take(self, state: ErrorState, deviation: float) -> int:
        """Evaluations that a video as hard as this one takes, if it may deviate so much."""
        allowed = self._tolerance_within(0, None, state.hardness, deviation / times_predicted(state, deviation))
        return self._to_come(0, None, state.hardness, allowed)[0]

    @property
    @abstractmethod
    def _usual_tolerance(self) -> float:
        """The tolerance with which a video of usual hardness comes to what is wanted."""

    @abstractmethod
    def _allowing(self, state: ErrorState, step: int) -> ErrorState:
        """With the tolerance that is in force after this computed step."""

    def _deviated(self, state: ErrorState, step: int, found: Found) -> ErrorState:
        """With the deviation of the stretch before this computed step."""
        assert state.last is not None
        log = None if found.error is None else self._over_usual(state.last, step, found.error)
        hardness = state.hardness if log is None else _stressed(log)
        predicted = (hardness * self._stretch(state.last, step - 1)) ** 2
        if found.latent_error is None:
            shown = TIMES_PREDICTED * found.power * predicted
        else:
            shown = (self._left(step) * found.latent_error) ** 2
        return replace(state, predicted=state.predicted + predicted, shown=state.shown + shown)

    def _left(self, step: int) -> float:
        """Which part of the latent's error at this step is left in the finished video; see LEFT_RISE."""
        return math.exp(LEFT_RISE * self.course.levels[step] - LEFT_AT_ZERO) * max(self.course.guidance, 1) ** LEFT_FALL

    def _over_usual(self, last: int, step: int, error: float) -> float | None:
        """The log of this error over the usual one, None if no distance lies between."""
        usual = usual_error(self.course.levels[step]) * (self.log_snrs[step] - self.log_snrs[last])
        return math.log(max(error, 1e-6) / usual) if usual else None

    def _learned(self, state: ErrorState, step: int, error: float) -> ErrorState:
        """With what this error says about the video's hardness."""
        assert state.last is not None
        log = self._over_usual(state.last, step, error)
        state = replace(state, errors=state.errors + 1)
        if state.errors == 1 or log is None:  # the first forecast only held the velocity
            return state
        if self.course.levels[step] > TELLING and log < ALARMING:
            return state
        return replace(state, total=MEMORY * state.total + log, weight=MEMORY * state.weight + 1)

    def _tolerance_within(self, step: int, last: int | None, hardness: float, predicted: float) -> float:
        """With which no more deviation is predicted from this step on; arguments as of `_to_come`."""
        return self._tolerance(lambda each: self._to_come(step, last, hardness, each)[1] > predicted)[0]

    @staticmethod
    def _tolerance(is_large: Callable[[float], bool]) -> tuple[float, float]:
        """The largest that is not large, and the smallest that is, by bisection."""
        low, high = LOWEST, HIGHEST
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            if is_large(math.exp(middle)):
                high = middle
            else:
                low = middle
        return math.exp(low), math.exp(high)

    def _to_come(self, step: int, last: int | None, hardness: float, tolerance: float) -> tuple[int, float]:
        """From this step on, if the video stays as hard as it is: evaluations, and the deviation that is predicted.

        Args:
            last: the computed step before, None before the first.
            hardness: as of `ErrorState`.
            tolerance: for one stretch of reused steps.
        """
        evaluations, predicted = 0, 0.0
        for at in range(step, self.course.steps):
            if last is None or self._forced(at, last) or hardness * self._costs[last][at - last] > tolerance:
                if last is not None:
                    predicted += (hardness * self._costs[last][at - 1 - last]) ** 2
                evaluations += self.course.cost(at)
                last = at
        if last is not None and last < self.course.steps - 1:
            predicted += (hardness * self._costs[last][self.course.steps - 1 - last]) ** 2
        return evaluations, predicted


def times_predicted(state: ErrorState, allowed: float) -> float:
    """How many times the predicted deviation the real one is; see TIMES_PREDICTED.

    Args:
        state: of the run.
        allowed: deviation of the whole run.
    """
    return (state.deviation + PRIOR * allowed) / (state.predicted + PRIOR * allowed / TIMES_PREDICTED) if allowed else 1
