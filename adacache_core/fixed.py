"""Replays a schedule that is known before the run: nothing is measured, nothing is decided."""

from __future__ import annotations

from .config import CacheConfig
from .schedule import Decision, ScheduleState


class FixedState(ScheduleState):
    """A controller that computes the steps of `config.schedule`, resampled to the run's number of steps.

    Args:
        config: settings; start and end hold here, too.
        steps, ends_at_zero: see `ScheduleState`. The last steps are as they are in the schedule.
    """

    table = ""

    def __init__(self, config: CacheConfig, steps: int, *, ends_at_zero: bool = True) -> None:
        super().__init__(config, steps, ends_at_zero=ends_at_zero)
        assert config.schedule is not None
        self._computed = config.schedule.for_steps(steps).computed

    @property
    def never_skips(self) -> bool:
        return all(self._computed)

    def decide(self, step: int) -> Decision:
        reason = "" if self._last_computed is None else self.outside(step)
        if self._last_computed is None or reason:
            return Decision(True, reason or "first step")
        return Decision(self._computed[step], "as planned")

    def wants_metric(self, step: int) -> bool:
        return False
