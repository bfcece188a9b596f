"""The paper's way to decide: a codebook says how many steps to skip for how much change."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from reprlib import repr as short

from torch import Tensor

from ..documents import is_count, is_number
from ..errors import AdaCacheError
from .base import Course, Decision, Policy
from .metric import BlockState, MetricController
from .motion import MotionConfig
from .scaling import scale_entries, scale_rate

EXAMPLE = "0.08:6, 0.16:5, 0.24:4, 0.32:3, 0.40:2, 1.00:1"


@dataclass(frozen=True)
class Codebook(Policy):
    """From rate of change to rate of reuse: the {threshold: rate} table of the paper.

    Attributes:
        entries: (threshold, rate) pairs, at least one. Thresholds (change of the probe residual per
            step, >= 0, dimensionless) rise strictly; a rate is the distance in sampler steps to the
            next computed step, a whole number >= 1. The first threshold that lies above the metric
            gives the rate. The last entry is "everything else": its threshold is never compared.
        steps: number of sampler steps the table was made for.
        name: what reports call it.

    Raises:
        AdaCacheError: names the entry that is wrong and shows a correct table.
    """

    entries: tuple[tuple[float, int], ...]
    steps: int = 30
    name: str = "custom"

    def __post_init__(self) -> None:
        if not self.entries:
            raise AdaCacheError(f"a codebook needs at least one entry, for example {EXAMPLE}")
        before = -math.inf
        for number, (threshold, rate) in enumerate(self.entries, 1):
            _check_entry(str(number), threshold, rate, before)
            before = threshold
        if not is_count(self.steps):
            raise AdaCacheError(f"a codebook is made for at least 1 sampler step, got {short(self.steps)}")

    @classmethod
    def parse(cls, text: str, steps: int = 30, name: str = "custom") -> Codebook:
        """Reads the paper's notation, `0.08:6, 0.16:5, ..., 1.00:1`, braces allowed.

        Raises:
            AdaCacheError: names the entry and its position (in characters, from 1).
        """
        body = text.strip().removeprefix("{").removesuffix("}").strip().removesuffix(",")
        if not body:
            raise AdaCacheError(f"the codebook is empty; a correct one is {EXAMPLE}")
        start = text.index(body)
        entries: list[tuple[float, int]] = []
        for number, part in enumerate(body.split(","), 1):
            where = f"{number} at position {start + len(part) - len(part.lstrip()) + 1}"
            match = re.fullmatch(r"\s*([-+.\w]+)\s*:\s*([-+.\w]+)\s*", part)
            try:
                if match is None:
                    raise ValueError
                threshold, rate = (float(number_text) for number_text in match.groups())
            except ValueError:
                raise AdaCacheError(
                    f"codebook entry {where}, {part.strip()!r}, is not 'threshold:rate'. "
                    f"A correct codebook is {EXAMPLE}"
                ) from None
            rate = int(rate) if rate.is_integer() else rate
            _check_entry(where, threshold, rate, entries[-1][0] if entries else -math.inf)
            entries.append((threshold, int(rate)))
            start += len(part) + 1
        return cls(tuple(entries), steps, name)

    def for_steps(self, steps: int) -> Codebook:
        """The table for a run of another number of sampler steps >= 1; see `scale_entries`."""
        return replace(self, entries=scale_entries(self.entries, self.steps, steps), steps=steps)

    def with_rates_times(self, factor: float) -> Codebook:
        """The same table with all rates times a factor, rounded, at least 1: bolder above 1, safer below."""
        entries = tuple((threshold, scale_rate(rate, factor)) for threshold, rate in self.entries)
        return replace(self, entries=entries, name=self.name if factor == 1 else f"{self.name} x{factor:g}")

    def rate_for(self, metric: Tensor | float) -> int:
        """The rate for a change per step.

        Args:
            metric: number or 0-dim tensor; a tensor is compared in its own dtype, as the reference does.

        Returns:
            Steps to the next computed one. A metric that is not finite gives the smallest rate of
            the table (the reference falls through to the last one).
        """
        if not math.isfinite(metric):
            return min(rate for _, rate in self.entries)
        for threshold, rate in self.entries[:-1]:
            if metric < threshold:
                return rate
        return self.entries[-1][1]

    @property
    def never_skips(self) -> bool:
        return all(rate == 1 for _, rate in self.entries)

    def controller(self, course: Course, moreg: MotionConfig | None = None) -> CodebookController:
        return CodebookController(course, moreg, self.for_steps(course.steps))

    def __str__(self) -> str:
        """The paper's notation, which `parse` reads back exactly."""
        return ", ".join(f"{threshold}:{rate}" for threshold, rate in self.entries)


def _check_entry(where: str, threshold: float, rate: float, before: float) -> None:
    if not is_number(threshold) or not 0 <= threshold < math.inf:
        raise AdaCacheError(
            f"codebook entry {where} has the threshold {short(threshold)}; a threshold is a number >= 0. "
            f"A correct codebook is {EXAMPLE}"
        )
    if not before < threshold:
        raise AdaCacheError(
            f"codebook thresholds must rise: entry {where} has {threshold} after {before}. "
            f"A correct codebook is {EXAMPLE}"
        )
    if not is_count(rate):
        raise AdaCacheError(
            f"codebook entry {where} ({threshold:g}) has the rate {short(rate)}; a rate is a whole number of "
            f"steps >= 1. A correct codebook is {EXAMPLE}"
        )


@dataclass(frozen=True)
class CodebookController(MetricController):
    """Takes the rate that a codebook gives for the metric.

    Attributes:
        codebook: for the run's number of steps.
    """

    codebook: Codebook

    @property
    def table(self) -> str:
        return str(self.codebook)

    @property
    def never_skips(self) -> bool:
        return self.codebook.never_skips

    def rate_for(self, metric: Tensor) -> int:
        return self.codebook.rate_for(metric)

    def decide(self, state: BlockState, step: int) -> Decision:
        forced = "first step" if state.last is None or step == 0 else self.course.forced(step)
        if forced:
            return Decision(True, forced)
        if state.rate == 1:
            return Decision(True, "rate 1" if state.measured > 0 else "no metric yet")
        assert state.last is not None
        due = step >= state.last + state.rate
        return Decision(due, "due" if due else f"rate {state.rate}")
