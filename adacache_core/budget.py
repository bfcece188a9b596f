"""Spends a given number of computed steps where the video changes. Beyond the paper; see docs/method.md.

The paper's codebook says what a rate of change is worth on one model. Here a run's changes are compared with each
other instead: no model has to be calibrated, and what the user asks for is a speed-up.
"""

from __future__ import annotations

import math

from torch import Tensor

from .config import CacheConfig
from .sampler import Sampler
from .schedule import Decision, ScheduleState

# Chosen on videos of the demo model whose prompts and seeds are not among those of the benchmark.
SENSITIVITY = 0.5  # exponent: four times the usual change halves the distance to the next computed step
LEAST, MOST = 0.5, 2.0  # by how much a change may shrink or stretch that distance
MIDDLE, CALM_END = 0.65, 0.1  # where few are skipped: round this part of the run, and not in the last tenth
BOLD = 4.5  # beyond this speed-up the last step may be reused, too: computed ones are worth more elsewhere
MOST_BEYOND = 1.1  # times the speed-up asked for, may a calm video get
GRANTED = 0.5  # of what a change costs beyond the even pace, or gains, the budget grows or shrinks by this part


class BudgetState(ScheduleState):
    """A controller that computes about `steps / config.target` steps, and decides which and how many from the metric.

    The budget is spread evenly over the steps that may be reused. Where the metric is above what it has been so far in
    this run the next computed step comes sooner, below it later. Half of what that costs or gains is the video's own,
    the other half is made up for later: a video that calms down is cheaper than one that does not. Of the last two
    steps, which are always computed otherwise, a target beyond BOLD leaves the very last one free.

    The speed-up is counted in evaluations: all those of a step are computed or all are reused. A step to which a
    sampler comes back (heunpp2 looks ahead) is done as it was before. Where fresh noise is drawn, or nobody knows
    whether it is, the target is never exceeded; elsewhere by a tenth at most.

    Args:
        config: settings; `target` is the wanted speed-up, the codebook is not asked.
        steps, ends_at_zero: see `ScheduleState`.
        sampler: what is known of it; None: it evaluates once a step and draws no noise.

    Attributes:
        unreachable: more steps are always computed than the target allows.
    """

    table = ""

    def __init__(
        self, config: CacheConfig, steps: int, *, ends_at_zero: bool = True, sampler: Sampler | None = None
    ) -> None:
        super().__init__(config, steps, ends_at_zero=ends_at_zero)
        assert config.target is not None
        self._free = [not self.forced(step) for step in range(steps)]
        self._decided: dict[int, Decision] = {}
        known = None if sampler is None else sampler.evaluations
        self._evaluations = known or (1,) * steps
        deterministic = sampler is None or sampler.draws_noise is False
        self._most = config.target * (MOST_BEYOND if deterministic else 1)
        allowed = sum(self._evaluations) / config.target
        forced = sum(count for count, free in zip(self._evaluations, self._free, strict=True) if not free)
        each = (sum(self._evaluations) - forced) / max(sum(self._free), 1) or 1.0  # evaluations of a free step
        left = (round if deterministic else math.ceil)((allowed - forced) / each)
        self.unreachable = left < 0
        self._budget = float(max(left, 0))
        may = [step for step, free in enumerate(self._free) if free] or [0]
        self._middle, self._calm = may[int(MIDDLE * len(may))], may[-1] - CALM_END * steps
        self._pace = 1.0  # of the step just computed: below 1 the video changes more than usual
        self._logs: list[float] = []  # of this run's metrics
        self.rate = _whole(self._even_distance(0))

    @property
    def never_skips(self) -> bool:
        return self._budget >= sum(self._free)

    def forced(self, step: int) -> str:
        assert self.config.target is not None
        bold = self.config.target > BOLD and 0 < step == self.steps - 1
        return self.outside(step) if bold else super().forced(step)

    def decide(self, step: int) -> Decision:
        if step not in self._decided:
            decision = super().decide(step)
            if not decision.compute and self._would_exceed(step):
                decision = Decision(True, "target reached")
            self._decided[step] = decision
        return self._decided[step]

    def _would_exceed(self, step: int) -> bool:
        """Whether with this step so many are reused that the run is too fast even if all others are computed."""
        reused = sum(self._evaluations[before] for before, done in self._decided.items() if not done.compute)
        total = sum(self._evaluations)
        return (total - reused - self._evaluations[step]) * self._most < total

    def computed(self, step: int) -> None:
        if self._last_computed is None or step > self._last_computed:
            super().computed(step)
            self._budget -= self._free[step]
            even = self._even_distance(step)
            self.rate = _whole(even * self._pace)
            if even <= 2:  # only every second step is to be skipped, however calm the video
                self.rate = min(self.rate, _whole(even))
            self._budget += GRANTED * (1 - self.rate / _whole(even))
            self._pace = 1.0

    def rate_for(self, metric: Tensor) -> int:
        """Takes the metric in; the rate is known once the step is `computed`. One that is not positive says nothing."""
        value = float(metric)
        if math.isfinite(value) and value > 0:
            self._logs.append(math.log(value))
            unusual = self._logs[-1] - sum(self._logs) / len(self._logs)
            self._pace = min(max(math.exp(-SENSITIVITY * unusual), LEAST), MOST)
        return self.rate

    def _even_distance(self, step: int) -> float:
        """Steps from this one to the next computed one if what is left were spread evenly.

        Where that is less than 2 every second step is skipped in one stretch, and none before and after: the first
        steps decide what the video becomes, the last ones how it looks.
        """
        left, budget = sum(self._free[step + 1 :]), max(self._budget, 0.0)
        even = (left + 1) / (budget + 1)
        if even >= 2:
            return even
        skips = left - budget
        begin = min(self._calm, self._middle + skips) - 2 * skips
        return 2.0 if skips > 0 and step >= begin else 1.0


def _whole(distance: float) -> int:
    return max(1, round(distance))
