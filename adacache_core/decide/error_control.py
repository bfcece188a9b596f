"""When to compute the model, from how wrong its forecasts were: an error controller. Beyond the paper.

What preset auto does, with `forecast.py` and `output.py`.

Solvers of differential equations choose their steps so (Hairer, Norsett, Wanner, "Solving Ordinary Differential
Equations I", II.4; diffrax's `AbstractStepSizeController` has the shape of this one): at a computed step the forecast
that would have stood in for it is held against what the model says; that error tells how far the next forecast may
reach. What is different here: the steps are the sampler's, so all that is decided is whether one is computed.

Everything in it is arithmetic with a few numbers per step. Noise levels are those of a flow model, 1 (noise) to 0
(video); `flow_level` gives them for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

# All constants were chosen on the shipped demo model with Euler: eight videos at shifts 1, 3, 5 and 8 with 12, 20, 30
# and 50 steps, whose prompts and noise are not the benchmark's. SWAY_FALL and SWAY_SOFT are of eight others, of whose
# prompts five are the benchmark's, with other noise.

# Distances are measured in log-SNR, log((1 - s) / s), which a shift of the noise levels only moves: there forecasts get
# worse at about the same rate all along, whatever the shift. Near pure noise and pure video it runs away: not so far.
SOFT = 0.03

# A forecast's error, relative to the velocity, grows in proportion to its reach. At reach 1 the usual one at level s is
# NEAR_NOISE / (1 - s + 0.04) + NEAR_VIDEO / (s + 0.03), at most MOST. On the demo model this holds within a quarter, at
# all shifts and numbers of steps alike.
NEAR_NOISE, NEAR_NOISE_SOFT = 0.1, 0.04
NEAR_VIDEO, NEAR_VIDEO_SOFT = 0.021, 0.03
MOST = 1.0

# What an error in the latent at level s does to the finished video: (1 - s + 0.08) ** -0.85 times as much. Measured on
# the demo model by pushing latents in the direction of real errors: 6 at 0.95, 2.1 at 0.77, 0.8 at 0.3.
SWAY_FALL, SWAY_SOFT = -0.85, 0.08

LAST = 2  # steps at the end that are always computed: nothing puts right what they spoil
FARTHEST = 1 / 5  # of a run: the longest way from a computed step

# A video's hardness is the mean log of its errors over the usual ones. Older errors count MEMORY times as much as the
# next, and it counts as if DOUBT usual ones had been seen. Above the level TELLING, near pure noise, errors say nothing
# of the video to come (on the demo model those of hard videos are the smaller ones there), unless they are ALARMING.
DOUBT, MEMORY = 0.5, 0.7
TELLING, ALARMING = 0.95, math.log(2.0)

# Hard videos are hard twice: their forecasts are worse, and the same error does more to them.
STRESS = 1.5

# Of what a video would take beyond its share of evaluations, or leave of it, it is given so much (in logs), and never
# less or more of its share than that; nor does an easy one skip so much more (as a part) than was asked for. So runs
# come near the speed-up that was asked for, and hard videos still take more than easy ones.
GIVEN = 0.85
GIVEN_LEAST, GIVEN_MOST = 0.87, 1.2
SKIPPED_MORE = 0.13

# At a computed step it shows how far off the latent was (`correct.py`), and most of that is mended. So much of it is in
# the finished video: exp(LEFT_RISE level - LEFT_AT_ZERO) guidance^LEFT_FALL. Found on four to eight videos of the demo
# model in each of twelve conditions, at 1.5x, 2x and 3x.
LEFT_RISE, LEFT_AT_ZERO, LEFT_FALL = 4.6, 2.16, -0.37

# In these runs that was so many times (mean squares) what the errors alone make of it; they are the forecast of it. The
# run's own proportion takes over as soon as it has shown PRIOR of what may be wrong.
TIMES_AS_WRONG = 5.7
PRIOR = 0.1

GUARD = 0.02  # the largest tolerance, whatever speed-up is asked for

# Where a video was harder than it looked and too much is wrong already, computing all that is left would not undo it.
# So much of what may be wrong in all may always get wrong in the rest of a run.
ANYWAY = 0.25

OF_BOTH = 0.5  # of what may get wrong: the part of a first sampler, which does not know what the second will do

SHORT = 0.9  # of the target: a speed-up below is worth a sentence

ROUNDS = 20  # of halving, when a tolerance is looked for
LOWEST, HIGHEST = -14.0, 4.0  # logs of tolerances


def flow_level(sigma: float, flow: bool) -> float:
    """The noise level of a flow model at which a latent has as much noise to its video.

    Args:
        sigma: noise level of this model.
        flow: whether it is a flow model's already; else the latent is video + sigma * noise.
    """
    return sigma if flow else sigma / (1 + sigma)


def place_of(level: float) -> float:
    """Of a flow level, in log-SNR; see SOFT."""
    return math.log((1 - level + SOFT) / (level + SOFT))


def usual_error(level: float) -> float:
    """Of a forecast for this flow level from a place at distance 1, relative to the velocity."""
    return min(NEAR_NOISE / (1 - level + NEAR_NOISE_SOFT) + NEAR_VIDEO / (level + NEAR_VIDEO_SOFT), MOST)


def sway(level: float) -> float:
    """How much an error at this flow level grows until the video is finished."""
    return (1 - level + SWAY_SOFT) ** SWAY_FALL


@dataclass(frozen=True)
class Course:
    """What is known of a run before it begins.

    Attributes:
        levels: flow levels, falling, (steps + 1,).
        computed: why steps are computed that are computed in any case, by step.
        evaluations: how often the sampler evaluates the model at each step, (steps,); empty: once.
        guidance: strength of classifier-free guidance; 1 is none.
    """

    levels: Sequence[float]
    computed: Mapping[int, str] = field(default_factory=dict)
    evaluations: Sequence[int] = ()
    guidance: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    @property
    def ends(self) -> bool:
        """Whether the run finishes the video; the first of two samplers does not, and has no end to protect."""
        return self.levels[-1] == 0

    def cost(self, step: int) -> int:
        """Evaluations of a step."""
        return self.evaluations[step] if self.evaluations else 1

    @property
    def cost_of_all(self) -> int:
        return sum(map(self.cost, range(self.steps)))


@dataclass(frozen=True)
class State:
    """What a run has shown so far. All of it passes through the controller; nothing is kept elsewhere.

    Attributes:
        allowed: the tolerance in force.
        last: the computed step that forecasts start from, None before the first.
        evaluations: computed so far.
        errors: how many forecasts have been held against the model.
        total, weight: of the logs of errors over usual ones: sum and sum of weights.
        guarded: whether the guard makes this video take more evaluations than it would be given.
        spare: evaluations that the sampler before this one left of its share; below 0 it took more.
        mistaken: what reused steps got wrong in the finished latent, judged by the errors of forecasts: mean square
            over that of the latent.
        wrong: the same, judged by how far off latents were found to be; not yet over that of the latent.
        power: mean square of the video, as last found.
    """

    allowed: float
    last: int | None = None
    evaluations: int = 0
    errors: int = 0
    total: float = 0.0
    weight: float = 0.0
    guarded: bool = False
    spare: float = 0.0
    mistaken: float = 0.0
    wrong: float = 0.0
    power: float = 1.0

    @property
    def share_wrong(self) -> float:
        """What is wrong in the finished latent, as far as it is known: mean square over that of the latent."""
        return self.wrong / self.power if self.power else 0.0

    @property
    def hardness(self) -> float:
        """1 is usual; see STRESS."""
        return _stressed(self.total / (self.weight + DOUBT))


def _stressed(log: float) -> float:
    """How much more than in a usual video is wrong where the errors are so much larger (in logs); see STRESS."""
    return math.exp(STRESS * log if log > 0 else log)


@dataclass(frozen=True)
class ErrorControl:
    """Computes a step when going on without it would get more wrong than the tolerance.

    A tolerance is the share of the finished latent that one stretch of reused steps may get wrong. It follows from
    what is wanted, and at every computed step anew.

    Attributes:
        course: of the run.
        target: wanted speed-up, counted in evaluations.
        wrong: instead of a target, what may be wrong in the finished latent, as of `State.share_wrong`.
        places: of the levels, in log-SNR, (steps + 1,).
    """

    course: Course
    target: float | None = None
    wrong: float | None = None
    places: tuple[float, ...] = field(init=False, repr=False)
    _each: tuple[float, ...] = field(init=False, repr=False)
    _costs: tuple[tuple[float, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", tuple(map(place_of, self.course.levels)))
        each = [
            sway(level) * usual_error(level) * abs(below - level)
            for level, below in zip(self.course.levels, self.course.levels[1:], strict=False)
        ]
        object.__setattr__(self, "_each", tuple(each))
        reach = range(math.floor(FARTHEST * self.course.steps) + 1)
        costs = [[self._stretch(last, last + far) for far in reach] for last in range(self.course.steps)]
        object.__setattr__(self, "_costs", tuple(map(tuple, costs)))

    def _stretch(self, last: int, step: int) -> float:
        """Of the finished latent, what reusing the steps after `last` up to this one gets wrong in a usual video.

        The correction brings velocities between two computed steps onto the straight line between them, so what is
        left grows from either end.
        """
        if step >= self.course.steps:
            return math.inf
        start, end = self.places[last], self.places[step + 1]
        if start == end:
            return 0.0
        between = range(last + 1, step + 1)
        return sum(self._each[j] * (self.places[j] - start) * (end - self.places[j]) / (end - start) for j in between)

    @property
    def never_skips(self) -> bool:
        """Whether every step is computed in any case."""
        return all(self._forced(step, step - 1) for step in range(1, self.course.steps))

    @property
    def speedup(self) -> float:
        """Of a video of usual hardness, in evaluations."""
        return self.course.cost_of_all / self._to_come(0, None, 1.0, self._usual_tolerance)[0]

    @cached_property
    def what_differs(self) -> str:
        """From the target, in a sentence; "" if nothing does."""
        if self.target is None or self.speedup > SHORT * self.target:
            return ""
        most = self.course.cost_of_all / self._to_come(0, None, 1.0, math.inf)[0]
        if most < SHORT * self.target:
            return f"{self.target:g}x cannot be reached in {self.course.steps} steps: too many are always computed"
        return f"{self.target:g}x would change this video visibly: about {self.speedup:.1f}x is computed instead"

    def would_take(self, state: State, wrong: float) -> int:
        """Evaluations that this video, as hard as it has shown itself, takes if no more is to be wrong in it."""
        tolerance = self._tolerance_within(0, None, state.hardness, wrong / self._times_as_wrong(state, wrong))
        return self._to_come(0, None, state.hardness, tolerance)[0]

    def begin(self, before: State | None = None) -> State:
        """Of a run that begins.

        Args:
            before: what `end` gave of the run that made half of this video; None: it is made from the start.
        """
        if before is None:
            return State(self._usual_tolerance)
        return replace(before, allowed=self._usual_tolerance, last=None, evaluations=0, guarded=False)

    def end(self, state: State) -> State | None:
        """What a run that goes on with this one's latent should know; None if it is finished."""
        if self.course.ends:
            return None
        return state if self.target is None else replace(state, spare=self._share(state) - state.evaluations)

    def _share(self, state: State) -> float:
        """Evaluations that this run has by the target, with what the run before has left of its own."""
        assert self.target is not None
        return max(self.course.cost_of_all / self.target + state.spare, 1.0)

    @cached_property
    def _usual_tolerance(self) -> float:
        """With which a video of usual hardness comes to what is wanted."""
        if self.target is not None:
            return self._tolerance_for(0, None, 1.0, self.course.cost_of_all / self.target)
        return self._tolerance_within(0, None, 1.0, self._may_be_wrong / TIMES_AS_WRONG)

    @property
    def _may_be_wrong(self) -> float:
        """In this run, of what may be wrong in all."""
        return (self.wrong or 0.0) * (1.0 if self.course.ends else OF_BOTH)

    def why_computed(self, state: State, step: int) -> str:
        """Why this step is computed; "" if it may be reused."""
        if state.last is None:
            return "first step"
        forced = self._forced(step, state.last)
        if forced:
            return forced
        over = state.hardness * self._costs[state.last][step - state.last] > state.allowed
        return "tolerance reached" if over else ""

    def _forced(self, step: int, last: int) -> str:
        """Why this step is computed whatever it would cost to reuse it, "" if it is not."""
        if step in self.course.computed:
            return self.course.computed[step]
        if self.course.ends and step >= self.course.steps - LAST:
            return "last steps"
        return "far from the last computed step" if step - last > FARTHEST * self.course.steps else ""

    def computed(
        self, state: State, step: int, error: float | None = None, off: float | None = None, power: float = 1.0
    ) -> State:
        """After a step that was computed.

        Args:
            error: of the forecast that it might have been given: root mean square over that of the velocity. None:
                there was none.
            off: how far the latent was from where it should be, root mean square, as a flow model has it; None: nobody
                knows.
            power: mean square of the video that was found.
        """
        state = replace(state, evaluations=state.evaluations + self.course.cost(step), power=power)
        if state.last is not None:
            mistaken = self._found_mistaken(state, step, error)
            known = None if off is None else (self._left(step) * off) ** 2
            wrong = TIMES_AS_WRONG * power * mistaken if known is None else known
            state = replace(state, mistaken=state.mistaken + mistaken, wrong=state.wrong + wrong)
            if error is not None:
                state = self._learned(state, step, error)
        state = replace(state, last=step)
        if self.target is not None:
            return self._given(state, step, self._share(state))
        may = self._may_be_wrong
        left = max(may - state.share_wrong, ANYWAY * may) / self._times_as_wrong(state, may)
        return replace(state, allowed=self._tolerance_within(step + 1, step, state.hardness, left))

    def _left(self, step: int) -> float:
        """Of how far off the latent was at this step, in the finished video; see LEFT_RISE."""
        return math.exp(LEFT_RISE * self.course.levels[step] - LEFT_AT_ZERO) * max(self.course.guidance, 1) ** LEFT_FALL

    @staticmethod
    def _times_as_wrong(state: State, may: float) -> float:
        """How many times as much is wrong as the errors make of it; see TIMES_AS_WRONG."""
        return (state.share_wrong + PRIOR * may) / (state.mistaken + PRIOR * may / TIMES_AS_WRONG) if may else 1.0

    def _found_mistaken(self, state: State, step: int, error: float | None) -> float:
        """What the stretch before this computed step got wrong, as of `State.mistaken`."""
        assert state.last is not None
        log = None if error is None else self._over_usual(state.last, step, error)
        hardness = state.hardness if log is None else _stressed(log)
        return (hardness * self._stretch(state.last, step - 1)) ** 2

    def _over_usual(self, last: int, step: int, error: float) -> float | None:
        """The log of this error over the usual one, None if no distance lies between."""
        usual = usual_error(self.course.levels[step]) * (self.places[step] - self.places[last])
        return math.log(max(error, 1e-6) / usual) if usual else None

    def _learned(self, state: State, step: int, error: float) -> State:
        """What the error says that was found at this step."""
        assert state.last is not None
        log = self._over_usual(state.last, step, error)
        state = replace(state, errors=state.errors + 1)
        if state.errors == 1 or log is None:  # the first one is of a video that was held still
            return state
        if self.course.levels[step] > TELLING and log < ALARMING:
            return state
        return replace(state, total=MEMORY * state.total + log, weight=MEMORY * state.weight + 1)

    def _given(self, state: State, step: int, share: float) -> State:
        """With the tolerance that brings the run near its share of evaluations; see GIVEN."""
        hardness, spent = state.hardness, state.evaluations
        would = spent + self._to_come(step + 1, step, hardness, self._usual_tolerance)[0]
        given = math.exp(GIVEN * math.log(would / share))
        fewest = max(GIVEN_LEAST * share, share - SKIPPED_MORE * (self.course.cost_of_all - share))
        goal = min(max(given * share, fewest), GIVEN_MOST * share)
        allowed = self._tolerance_for(step + 1, step, hardness, goal - spent)
        expected, least = (spent + self._to_come(step + 1, step, hardness, each)[0] for each in (allowed, math.inf))
        return replace(state, allowed=allowed, guarded=state.guarded or SHORT * expected > max(goal, least))

    def _tolerance_for(self, step: int, last: int | None, hardness: float, evaluations: float) -> float:
        """With which so many are computed from this step on, but for the guard; arguments as of `_to_come`."""
        return min(
            self._tolerance(lambda each: self._to_come(step, last, hardness, each)[0] <= evaluations + 0.5)[1], GUARD
        )

    def _tolerance_within(self, step: int, last: int | None, hardness: float, wrong: float) -> float:
        """With which no more gets wrong from this step on; arguments as of `_to_come`."""
        return self._tolerance(lambda each: self._to_come(step, last, hardness, each)[1] > wrong)[0]

    @staticmethod
    def _tolerance(is_large: Callable[[float], bool]) -> tuple[float, float]:
        """The largest that is not large, and the smallest that is."""
        low, high = LOWEST, HIGHEST
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            if is_large(math.exp(middle)):
                high = middle
            else:
                low = middle
        return math.exp(low), math.exp(high)

    def _to_come(self, step: int, last: int | None, hardness: float, tolerance: float) -> tuple[int, float]:
        """From this step on, if the video stayed as hard as it is: evaluations, and what gets wrong (`State.mistaken`).

        Args:
            last: the computed step before, None before the first.
            hardness: see `State.hardness`.
            tolerance: for one stretch of reused steps.
        """
        evaluations, wrong = 0, 0.0
        for at in range(step, self.course.steps):
            if last is None or self._forced(at, last) or hardness * self._costs[last][at - last] > tolerance:
                if last is not None:
                    wrong += (hardness * self._costs[last][at - 1 - last]) ** 2
                evaluations += self.course.cost(at)
                last = at
        if last is not None and last < self.course.steps - 1:
            wrong += (hardness * self._costs[last][self.course.steps - 1 - last]) ** 2
        return evaluations, wrong
