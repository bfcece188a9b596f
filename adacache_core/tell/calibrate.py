"""Makes a codebook for a model, from runs with preset watch, which skip nothing (the paper's supplement A.2)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch

from .. import documents
from ..decide.base import Course
from ..decide.codebook import Codebook
from ..decide.metric import Sums
from ..errors import AdaCacheError
from .report import COMPUTED, RunReport

BOLDEST = 17  # only rates below this one are tried


@dataclass(frozen=True)
class Calibration:
    """A codebook, and the runs it was made from.

    Attributes:
        codebook: the result.
        low, high: smallest and largest change per step in the runs.
        speedups: the counted speed-up that each run would have had with this codebook.
    """

    codebook: Codebook
    low: float
    high: float
    speedups: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.speedups)} runs of {self.codebook.steps} steps changed by {self.low:.3g} to {self.high:.3g} "
            f"per step; with this table they would have been {mean(self.speedups):.2f}x faster "
            f"({min(self.speedups):.2f}x to {max(self.speedups):.2f}x)"
        )


def curve_of(report: RunReport) -> list[float]:
    """The change per step of a run in which every step was computed.

    Returns:
        The relative change, a number for each step except the first. Empty if the run skipped something, was stopped,
        or did not measure the change.
    """
    measured = {record.step: record.metric for record in report.evaluations if record.metric is not None}
    curve = [measured.get(step, math.nan) for step in range(1, report.sampler_steps)]
    complete = curve and all(math.isfinite(change) for change in curve)
    whole = all(record.state == COMPUTED for record in report.evaluations)
    return curve if complete and whole else []


def calibrate(
    curves: Sequence[Sequence[float]], speedup: float, entries: int = 6, name: str = "calibrated"
) -> Calibration:
    """Finds the codebook that comes nearest to a speed-up: evenly spaced thresholds, and rates that fall.

    Args:
        curves: of runs with preset watch, as `curve_of` returns them, all for the same number of steps.
        speedup: counted speed-up to come near to, as the mean over the runs.
        entries: of the codebook, at least 1.
        name: of the codebook.

    Raises:
        AdaCacheError: there are no curves, or their lengths differ.
    """
    lengths = {len(curve) for curve in curves}
    if len(lengths) != 1 or lengths == {0}:
        found = (
            "none" if not lengths - {0} else f"runs of {', '.join(str(length + 1) for length in sorted(lengths))} steps"
        )
        raise AdaCacheError(f"calibration needs runs with preset watch, all of one number of steps; there are {found}")
    steps = lengths.pop() + 1
    low, high = float(np.min(curves)), float(np.max(curves))
    thresholds = np.unique([float(f"{value:.4g}") for value in np.linspace(low, high, entries + 1)[1:]])
    best: tuple[float, Codebook, tuple[float, ...]] | None = None
    for boldest in np.arange(1, min(steps, BOLDEST), 0.5):
        rates = [max(1, round(boldest * (1 - index / len(thresholds)))) for index in range(len(thresholds))]
        book = Codebook(tuple(zip(map(float, thresholds), rates, strict=True)), steps, name)
        speedups = tuple(steps / computed_of(curve, book) for curve in curves)
        off = abs(mean(speedups) - speedup)
        if best is None or off < best[0]:
            best = off, book, speedups
    assert best is not None
    return Calibration(best[1], low, high, best[2])


def computed_of(curve: Sequence[float], codebook: Codebook) -> int:
    """How many steps a run with these changes would compute. Between two computed steps, the mean change counts."""
    steps = len(curve) + 1
    controller = codebook.controller(Course(steps))
    state, last, computed = controller.begin(), 0, 0
    for step in range(steps):
        if not controller.decide(state, step).compute:
            continue
        change = mean(curve[last:step]) * state.rate if step else None
        sums = None if change is None else Sums(torch.tensor([change, 1.0]))
        state = controller.computed(state, step, sums)
        last, computed = step, computed + 1
    return computed


def codebook_to_json(codebook: Codebook, note: str = "") -> str:
    data = documents.head_of("codebook") | {
        "name": codebook.name,
        "note": note,
        "steps": codebook.steps,
        "entries": [list(entry) for entry in codebook.entries],
    }
    return json.dumps(data, indent=1)


def codebook_from_json(text: str) -> Codebook:
    """Reads what `codebook_to_json` wrote.

    Raises:
        AdaCacheError: not one JSON document, another format, another version, or no codebook.
    """
    data = documents.read(text, "codebook")
    try:
        entries = tuple((threshold, rate) for threshold, rate in data["entries"])
        steps, name = data["steps"], data["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise AdaCacheError(f"the codebook cannot be read: {error!r}") from None
    if not isinstance(name, str):
        raise AdaCacheError("the codebook cannot be read: its 'name' must be a text")
    return Codebook(entries, steps, name)
