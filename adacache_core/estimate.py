"""How close a video is to the one without AdaCache, from what its run has measured. Beyond the paper; docs/method.md.

*Closeness* is the signal-to-noise ratio of the finished latent, as the model works in it, in dB: 10 log10(mean of its
squares / mean squared difference to the latent that all steps computed would have made).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The controller adds up what the stretches of reused steps got wrong (`State.wrong`). On eight videos of the demo
# model (docs/method.md says which), videos came out this much less close than that, and nine of ten within the range.
OFF_BY = 0.0
BELOW, ABOVE = 6.0, 6.0

LARGEST = 80.0  # dB; beyond it half precision is what differs

# Marks on the dial.
DRAFT, GOOD, FAITHFUL = 25.0, 32.0, 40.0
MARKS = {"draft": DRAFT, "good": GOOD, "faithful": FAITHFUL}


@dataclass(frozen=True)
class Estimate:
    """Closeness in dB, as expected, and the range in which nine of ten videos are."""

    db: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """What that means."""
        if self.db >= FAITHFUL:
            return "no visible difference"
        if self.db >= GOOD:
            return "hard to tell apart"
        return "alike, with small differences" if self.db >= DRAFT else "another video in places"

    def __str__(self) -> str:
        return f"{self.db:.0f} dB ({self.low:.0f} to {self.high:.0f}): {self.words}"


def closeness_of(wrong: float) -> Estimate:
    """Of a video in which so much is wrong, as of `State.wrong`."""
    db = LARGEST if wrong <= 0 else min(-10 * math.log10(wrong) + OFF_BY, LARGEST)
    return Estimate(db, db - BELOW, min(db + ABOVE, LARGEST))


def wrong_of(closeness: float) -> float:
    """What may be wrong in a video that is to be so close, in dB: `closeness_of` the other way round."""
    return float(10 ** ((OFF_BY - closeness) / 10))
