"""When to compute the model, from how wrong its forecasts were: an error controller. Beyond the paper.

Made for the next preset auto, with `forecast.py` and `output.py`; no run uses it yet.

Solvers of differential equations choose their steps so (Hairer, Norsett, Wanner, "Solving Ordinary Differential
Equations I", II.4; diffrax's `AbstractStepSizeController` has the shape of this one): at a computed step the forecast
that would have stood in for it is held against what the model says; that error tells how far the next forecast may
reach. What is different here: the steps are the sampler's, so all that is decided is whether one is computed.

Everything in it is arithmetic with a few numbers per step. Noise levels are those of a flow model, 1 (noise) to 0
(video); `flow_level` gives them for others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

# All constants were chosen on the shipped demo model with Euler: eight videos of 30 steps, cfg 4, at shifts 1, 3 and 8,
# and four of 20 steps, cfg 7, at shift 5. The benchmark draws other noise, but has five of the eight prompts.

# Distances are measured in log-SNR, log((1 - s) / s), which a shift of the noise levels only moves: there forecasts get
# worse at about the same rate all along, whatever the shift. Near pure noise and pure video it runs away: not so far.
SOFT = 0.03

# How a forecast's error grows with its reach in log-SNR. On the demo model it was 0.057, 0.127 and 0.200 at 1, 2 and 3
# steps: hardly faster than in proportion, since the forecast trusts itself less the less it came true.
GROWTH = 1.2

# The usual error at reach 1, relative to the velocity: USUAL * (1 - s + 0.02) ** USUAL_FALL. On the demo model this
# holds within a quarter at shifts 1, 3 and 8.
USUAL, USUAL_FALL, USUAL_SOFT = 0.19, -0.7, 0.02

# What an error in the latent at level s does to the finished video: (1 - s + 0.08) ** -0.85 times as much. Measured on
# the demo model by pushing latents in the direction of real errors: 6 at 0.95, 2.1 at 0.77, 0.8 at 0.3.
SWAY_FALL, SWAY_SOFT = -0.85, 0.08

FIRST, LAST = 2, 2  # steps that are always computed: no forecast is known yet; and nothing puts right what they spoil
FARTHEST = 1 / 5  # of a run: the longest way from a computed step

# A video's hardness is the mean log of its errors over the usual ones. It shows late, and its first signs mislead: so
# it counts as if DOUBT usual errors had been seen, older errors count MEMORY times as much as the next, and the first
# error, of a video held still, does not count.
DOUBT, MEMORY = 2.0, 0.7

# What a video's hardness is taken to be until one of its errors has counted: where steps are coarse (distilled models)
# the first one reused may be one too many. Not measured on a distilled model yet.
UNKNOWN = 3.0

# Hard videos are hard twice: their forecasts are worse, and the same error does more to them.
STRESS = 1.5

# The largest tolerance, whatever speed-up is asked for; a guess between 3x and 4x of 30 steps, not measured yet.
GUARD = 0.06

ROUNDS = 24  # of halving, when a tolerance is looked for


def flow_level(sigma: float, flow: bool) -> float:
    """The noise level of a flow model at which a latent has as much noise to its video.

    Args:
        sigma: noise level of this model.
        flow: whether it is a flow model's already; else the latent is video + sigma * noise.
    """
    return sigma if flow else sigma / (1 + sigma)


@dataclass(frozen=True)
class Course:
    """What is known of a run before it begins.

    Attributes:
        levels: flow levels, falling, (steps + 1,).
        computed: steps that are computed in any case.
        evaluations: how often the sampler evaluates the model at each step, (steps,); empty: once.
    """

    levels: Sequence[float]
    computed: frozenset[int] = frozenset()
    evaluations: Sequence[int] = ()

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


@dataclass(frozen=True)
class State:
    """What a run has shown so far. All of it passes through the controller; nothing is kept elsewhere.

    Attributes:
        last: the computed step that forecasts start from, None before the first.
        spent: of the tolerance, by the reused steps since.
        evaluations: computed so far.
        errors: how many forecasts have been held against the model.
        total, weight: of the logs of errors over usual ones: sum and sum of weights.
    """

    last: int | None = None
    spent: float = 0.0
    evaluations: int = 0
    errors: int = 0
    total: float = 0.0
    weight: float = 0.0

    @property
    def hardness(self) -> float:
        """1 is usual; see STRESS."""
        if not self.weight:
            return UNKNOWN
        return math.exp(STRESS * self.total / (self.weight + DOUBT))


@dataclass(frozen=True)
class ErrorControl:
    """Computes a step when reusing it would spend more than the tolerance.

    Attributes:
        course: of the run.
        target: wanted speed-up, counted in evaluations; the tolerance follows from it.
        tolerance: share of the finished latent that one stretch of reused steps may get wrong, instead of a target.
        allowed: the tolerance in force.
        places: of the levels, in log-SNR, (steps + 1,).
    """

    course: Course
    target: float | None = None
    tolerance: float | None = None
    allowed: float = field(init=False)
    places: tuple[float, ...] = field(init=False, repr=False)
    _usual: tuple[float, ...] = field(init=False, repr=False)
    _each: tuple[float, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        steps, levels = range(self.course.steps), self.course.levels
        soft = [self.place_of(level) for level in levels]
        usual = [USUAL * (1 - level + USUAL_SOFT) ** USUAL_FALL for level in levels]
        sway = [(1 - level + SWAY_SOFT) ** SWAY_FALL for level in levels]
        # What the usual error at reach 1 does to the finished video, if this step is reused.
        each = [sway[step] * usual[step] * abs(levels[step + 1] - levels[step]) for step in steps]
        for name, value in (("places", soft), ("_usual", usual), ("_each", each)):
            object.__setattr__(self, name, tuple(value))
        wanted = self._usual_tolerance() if self.tolerance is None else self.tolerance
        object.__setattr__(self, "allowed", min(wanted, GUARD))

    @staticmethod
    def place_of(level: float) -> float:
        """Of a flow level, in log-SNR."""
        return math.log((1 - level + SOFT) / (level + SOFT))

    def _usual_tolerance(self) -> float:
        """With which a video of usual hardness comes to the target."""
        every = sum(map(self.course.cost, range(self.course.steps)))
        low, high = -16.0, 6.0  # logs
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            if self.evaluations_from(0, None, 1.0, math.exp(middle)) * (self.target or 1.0) > every:
                low = middle
            else:
                high = middle
        return math.exp(high)

    def why_computed(self, state: State, step: int) -> str:
        """Why this step is computed; "" if it may be reused."""
        if state.last is None:
            return "first step"
        forced = self._forced(step, state.last)
        if forced:
            return forced
        over = state.spent + self._cost(state.hardness, state.last, step) > self.allowed
        return "tolerance reached" if over else ""

    def _forced(self, step: int, last: int) -> str:
        """Why this step is computed whatever it would cost to reuse it, "" if it is not."""
        if step in self.course.computed:
            return "something changes here"
        if step < FIRST:
            return "first steps"
        if self.course.ends and step >= self.course.steps - LAST:
            return "last steps"
        return "far from the last computed step" if step - last > FARTHEST * self.course.steps else ""

    def reused(self, state: State, step: int) -> State:
        """After a step that was reused."""
        assert state.last is not None
        return replace(state, spent=state.spent + self._cost(state.hardness, state.last, step))

    def computed(self, state: State, step: int, error: float | None = None) -> State:
        """After a step that was computed.

        Args:
            error: of the forecast that it might have been given: root mean square over that of the velocity. None:
                there was none.
        """
        state = replace(state, evaluations=state.evaluations + self.course.cost(step))
        if error is not None and state.last is not None:
            state = self._learned(state, self.places[step] - self.places[state.last], self._usual[step], error)
        return replace(state, last=step, spent=0.0)

    @staticmethod
    def _learned(state: State, reach: float, usual: float, error: float) -> State:
        """What an error says that was found so far from the last computed step, where so much is usual at reach 1."""
        state = replace(state, errors=state.errors + 1)
        if state.errors == 1:
            return state
        log = math.log(max(error, 1e-6) / (usual * reach**GROWTH))
        return replace(state, total=MEMORY * state.total + log, weight=MEMORY * state.weight + 1)

    def _cost(self, hardness: float, last: int, step: int) -> float:
        """Of the finished latent, what reusing this step gets wrong."""
        return hardness * self._each[step] * (self.places[step] - self.places[last]) ** GROWTH

    def evaluations_from(self, step: int, last: int | None, hardness: float, tolerance: float) -> int:
        """How many would be computed from this step on, if the video stayed as hard as it is.

        Args:
            last: the computed step before, None before the first.
            hardness: see `State.hardness`.
            tolerance: for one stretch of reused steps.
        """
        total, spent = 0, 0.0
        for at in range(step, self.course.steps):
            if last is not None:
                spent += self._cost(hardness, last, at)
            if last is None or self._forced(at, last) or spent > tolerance:
                total += self.course.cost(at)
                last, spent = at, 0.0
        return total
