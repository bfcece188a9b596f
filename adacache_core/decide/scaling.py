"""A table that was made for one number of sampler steps, used at another. Beyond the paper.

The authors published one table twice, for 30 and for 100 steps. Between these two points we draw a
straight line in log-log: a power of the step count, exact at both ends, positive everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from ..documents import LARGEST
from .published import FAST_30, FAST_100, MOREG_WINDOW_30, MOREG_WINDOW_100

Entries = tuple[tuple[float, int], ...]  # (threshold, rate) pairs, see `Codebook`

TINY = 1e-9  # a threshold of zero has no logarithm
HUGE = 1e200  # one beyond this is not reached either, and could grow beyond all numbers


def scale_entries(table: Entries, made_for: int, steps: int) -> Entries:
    """The entries of a table for a run of `steps` sampler steps.

    A threshold moves as the published thresholds nearest to it do; one that runs into its neighbour can
    never be reached and is dropped. Rates double from 30 to 100 steps, the last one triples; they are
    rounded, at least 1, and do not rise from one entry to the next where the table's own do not.

    Args:
        table: its entries.
        made_for: number of sampler steps >= 1 that it was made for.
        steps: number of sampler steps >= 1.
    """
    if steps == made_for:
        return table
    here, there = np.log(_law(made_for)), np.log(_law(steps))
    thresholds = np.array([threshold for threshold, _ in table])
    log_ratio = np.interp(np.log(np.maximum(thresholds, TINY)), here, there - here)
    scaled = [float(f"{value:.6g}") for value in np.minimum(thresholds, HUGE) * np.exp(log_ratio)]
    # The last threshold is never compared; it only has to stay above the others.
    scaled[-1] = max([table[-1][0], *(1.25 * threshold for threshold in scaled[:-1])])

    times = _position(steps) - _position(made_for)
    entries: list[tuple[float, int]] = []
    for index, (threshold, (_, rate)) in enumerate(zip(scaled, table, strict=True)):
        published = (FAST_30[-1][1], FAST_100[-1][1]) if index == len(scaled) - 1 else (1, 2)
        new_rate = scale_rate(rate, (published[1] / published[0]) ** times)
        if entries and rate <= table[index - 1][1]:
            new_rate = min(new_rate, entries[-1][1])
        if not entries or threshold > entries[-1][0]:
            entries.append((threshold, new_rate))
    return tuple(entries)


def scale_window(steps: int) -> tuple[int, int]:
    """MoReg's published window for a run of `steps`: first and last step, from 1, both included."""
    first, last = (
        round(_power_law(at_30, at_100, steps)) for at_30, at_100 in zip(MOREG_WINDOW_30, MOREG_WINDOW_100, strict=True)
    )
    return max(1, first), min(steps, last)


def scale_rate(rate: int, factor: float) -> int:
    """A rate times a factor: rounded, at least 1, and never too large to be multiplied."""
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
