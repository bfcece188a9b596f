"""A table that was made for one number of sampler steps, used at another. Beyond the paper.

The authors published one table twice, for 30 and for 100 steps. Between these two points we draw a
straight line in log-log: a power of the step count, exact at both ends, positive everywhere.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..documents import LARGEST
from .published import FAST_30, FAST_100, MOREG_WINDOW_30, MOREG_WINDOW_100

if TYPE_CHECKING:
    from .codebook import Codebook

TINY = 1e-9  # a threshold of zero has no logarithm
HUGE = 1e200  # one beyond this is not reached either, and could grow beyond all numbers


def scale_codebook(codebook: Codebook, steps: int) -> Codebook:
    """The table for a run of `steps` sampler steps.

    A threshold moves as the published thresholds nearest to it do; one that runs into its neighbour can
    never be reached and is dropped. Rates double from 30 to 100 steps, the last one triples; they are
    rounded, at least 1, and do not rise from one entry to the next where the table's own do not.

    Args:
        codebook: made for `codebook.steps` steps.
        steps: number of sampler steps >= 1.
    """
    if steps == codebook.steps:
        return codebook
    here, there = np.log(_law(codebook.steps)), np.log(_law(steps))
    thresholds = np.array([threshold for threshold, _ in codebook.entries])
    log_ratio = np.interp(np.log(np.maximum(thresholds, TINY)), here, there - here)
    scaled = [float(f"{value:.6g}") for value in np.minimum(thresholds, HUGE) * np.exp(log_ratio)]
    # The last threshold is never compared; it only has to stay above the others.
    scaled[-1] = max([codebook.entries[-1][0], *(1.25 * threshold for threshold in scaled[:-1])])

    times = _position(steps) - _position(codebook.steps)
    entries: list[tuple[float, int]] = []
    for index, (threshold, (_, rate)) in enumerate(zip(scaled, codebook.entries, strict=True)):
        published = (FAST_30[-1][1], FAST_100[-1][1]) if index == len(scaled) - 1 else (1, 2)
        new_rate = _times(rate, (published[1] / published[0]) ** times)
        if entries and rate <= codebook.entries[index - 1][1]:
            new_rate = min(new_rate, entries[-1][1])
        if not entries or threshold > entries[-1][0]:
            entries.append((threshold, new_rate))
    return replace(codebook, entries=tuple(entries), steps=steps)


def scale_window(steps: int) -> tuple[int, int]:
    """MoReg's published window for a run of `steps`: first and last step, from 1, both included."""
    first, last = (
        round(_power_law(at_30, at_100, steps)) for at_30, at_100 in zip(MOREG_WINDOW_30, MOREG_WINDOW_100, strict=True)
    )
    return max(1, first), min(steps, last)


def scale_rates(codebook: Codebook, factor: float) -> Codebook:
    """The same table with all rates times `factor`, rounded, at least 1: bolder above 1, safer below."""
    entries = tuple((threshold, _times(rate, factor)) for threshold, rate in codebook.entries)
    return replace(codebook, entries=entries, name=codebook.name if factor == 1 else f"{codebook.name} x{factor:g}")


def _times(rate: int, factor: float) -> int:
    return min(max(1, round(rate * factor)), LARGEST)


def _position(steps: int) -> float:
    """0 at 30 steps, 1 at 100 steps, linear in the logarithm of the step count."""
    return math.log(steps / 30) / math.log(100 / 30)


def _power_law(at_30: float, at_100: float, steps: int) -> float:
    return at_30 * (at_100 / at_30) ** _position(steps)


def _law(steps: int) -> np.ndarray:
    """The five compared thresholds of the published table, as they are at `steps`."""
    pairs = zip(FAST_30[:-1], FAST_100[:-1], strict=True)
    return np.array([_power_law(at_30, at_100, steps) for (at_30, _), (at_100, _) in pairs])
