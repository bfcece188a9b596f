"""Computes and measures every step, as a codebook would measure it: for calibrating one."""

from __future__ import annotations

from dataclasses import dataclass

from .base import Course, Decision, Policy
from .metric import BlockState, MetricController
from .motion import MotionConfig


@dataclass(frozen=True)
class Watch(Policy):
    """Every step is computed and measured."""

    settled = True

    def controller(self, course: Course, moreg: MotionConfig | None = None) -> WatchController:
        return WatchController(course, moreg)


class WatchController(MetricController):
    """Computes every step."""

    def decide(self, state: BlockState, step: int) -> Decision:
        return Decision(True, "watched")
