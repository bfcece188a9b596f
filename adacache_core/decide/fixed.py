"""Replays a schedule that is known before the run: nothing is measured, nothing is decided."""

from __future__ import annotations

from ..config import CacheConfig, Fixed
from .codebook import BlockController, Decision


class FixedState(BlockController):
    """A controller that computes the steps of a `Fixed` policy, resampled to the run's number of steps.

    Args:
        config: settings; start and end hold here, too.
        steps, ends_at_zero: see `BlockController`. The last steps are as they are in the schedule.
    """

    def __init__(self, config: CacheConfig, steps: int, *, ends_at_zero: bool = True) -> None:
        super().__init__(config, steps, ends_at_zero=ends_at_zero)
        assert isinstance(config.policy, Fixed)
        self._computed = config.policy.schedule.for_steps(steps).computed
        self.never_skips = all(self._computed)

    def decide(self, step: int) -> Decision:
        reason = "" if self._last_computed is None else self.outside(step)
        if self._last_computed is None or reason:
            return Decision(True, reason or "first step")
        return Decision(self._computed[step], "as planned")

    def wants_metric(self, step: int) -> bool:
        return False
