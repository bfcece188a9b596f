"""How close a video is to the one without AdaCache: measured, or estimated after its run. Not in the paper: our own.

*Closeness* is the signal-to-noise ratio of the finished latent, in the numbers that the model works with, in dB. The
reference is the latent that the same model makes when every step is computed. docs/method.md explains the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

# The range of an estimate, in dB below and above it. The controller's constants were found on runs of the demo model
# (docs/method.md); nine of ten of those runs came within this range of what the controller added up
# (`ErrorState.deviation`).
BELOW, ABOVE = 7.5, 7.5

# With strong guidance, from STRONG on, a small error can turn a video into another one, and the run does not see it
# coming. So the range goes further down. Found on four other videos of the demo model in each of six conditions with
# guidance 5 to 7, with auto at 2x and quality at 25 and 33 dB.
STRONG, FAR_BELOW = 5.0, 17.0

LARGEST = 40.0  # dB; beyond it nobody sees a difference, so no estimate is higher

SMALLEST_SQUARE = 1e-30  # keeps the logarithm finite if a latent is zero everywhere

# Marks on the dial of preset quality, in dB.
DRAFT, GOOD, FAITHFUL = 18.0, 25.0, 33.0
MARKS = {"draft": DRAFT, "good": GOOD, "faithful": FAITHFUL}


def closeness(plain: Tensor, other: Tensor) -> float:
    """Measured closeness: 10 log10(mean square of `plain` / mean squared difference).

    Args:
        plain: finished latent of the run without AdaCache, of any shape, finite.
        other: the same of the run to be judged, of the same shape.

    Returns:
        dB; inf if the two are equal.
    """
    plain, other = plain.double(), other.double()
    difference = (plain - other).square().mean().item()
    if difference == 0:
        return math.inf
    return 10 * math.log10(max(plain.square().mean().item(), SMALLEST_SQUARE) / difference)


@dataclass(frozen=True)
class Estimate:
    """Expected closeness in dB, and the range that should hold nine of ten videos."""

    db: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """What this closeness looks like, if that can be told."""
        if self.db - self.low > BELOW + ABOVE:
            return "hard to predict at this cfg"
        if self.db >= FAITHFUL:
            return "very hard to tell apart"
        if self.db >= GOOD:
            return "hard to tell apart"
        return "small differences" if self.db >= DRAFT else "visible differences"

    def __str__(self) -> str:
        return f"{self.db:.0f} dB ({self.low:.0f} to {self.high:.0f}): {self.words}"


def closeness_of(deviation: float, guidance: float = 1.0) -> Estimate:
    """The estimate for a run.

    Args:
        deviation: mean squared difference that the controller expects in the finished latent, relative to the latent's
            mean square (`ErrorState.deviation`).
        guidance: strength of classifier-free guidance; 1 is none.
    """
    db = LARGEST if deviation <= 0 else min(-10 * math.log10(deviation), LARGEST)
    below = FAR_BELOW if guidance >= STRONG else BELOW
    return Estimate(db, db - below, min(db + ABOVE, LARGEST))


def deviation_of(db: float) -> float:
    """The deviation that gives this closeness in dB: the inverse of `closeness_of`."""
    return float(10 ** (-db / 10))
