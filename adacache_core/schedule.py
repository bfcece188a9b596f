"""Which steps of a run are computed, as data: JSON out and in, for another number of steps, averaged over runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from . import documents
from .errors import AdaCacheError


@dataclass(frozen=True)
class Schedule:
    """A fixed schedule, to be shown or replayed.

    Attributes:
        computed: for sampler step k of the run it comes from, whether it computes.
        source: where it comes from, for people.

    Raises:
        AdaCacheError: there are no steps, or the first one is not computed.
    """

    computed: tuple[bool, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.computed or not self.computed[0]:
            raise AdaCacheError("a schedule has at least one step, and its first step is computed")

    def __str__(self) -> str:
        return f"{sum(self.computed)} of {len(self.computed)} steps{f' ({self.source})' if self.source else ''}"

    def for_steps(self, steps: int) -> Schedule:
        """The same share of the same parts of the run, in another number of steps; the first one is computed."""
        if steps == len(self.computed):
            return self
        before = np.arange(len(self.computed) + 1) / len(self.computed)
        counted = np.array([0, *accumulate(self.computed)]) * steps / len(self.computed)
        return _where_it_rises(np.interp(np.arange(steps + 1) / steps, before, counted), self.source)

    def to_json(self) -> str:
        return json.dumps(documents.head_of("schedule") | {"source": self.source, "computed": list(self.computed)})

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Reads what `to_json` wrote.

        Raises:
            AdaCacheError: not one JSON document, another format, another version, or a list that is no schedule.
        """
        return cls.from_dict(documents.read(text, "schedule"))

    @classmethod
    def from_dict(cls, data: Any) -> Schedule:
        """Of JSON that has been parsed; raises as `from_json` does."""
        data = documents.check(data, "schedule")
        computed, source = data.get("computed"), data.get("source", "")
        if not isinstance(computed, list) or not all(isinstance(each, bool) for each in computed):
            raise AdaCacheError("the schedule's 'computed' must be a list of true and false, one for each step")
        if not isinstance(source, str):
            raise AdaCacheError("the schedule's 'source' must be a text")
        return cls(tuple(computed), source)


def average(schedules: Sequence[Schedule]) -> Schedule:
    """As many computed steps as these have on average, spread over the run as theirs are.

    Args:
        schedules: at least one; those of fewer steps than the longest are stretched.
    """
    steps = max(len(each.computed) for each in schedules)
    counted = [[0, *accumulate(each.for_steps(steps).computed)] for each in schedules]
    sources = " + ".join(dict.fromkeys(each.source for each in schedules if each.source))
    return _where_it_rises(np.mean(counted, axis=0), sources)


def _where_it_rises(counted: np.ndarray, source: str) -> Schedule:
    """The steps in which a count of computed steps, (steps + 1,) from 0, comes to exceed another whole number."""
    begun = np.ceil(counted - 1e-9)
    return Schedule(tuple(bool(rise) for rise in np.diff(begun) > 0), source)
