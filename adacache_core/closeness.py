"""How close a video is to the one without AdaCache, from what its run has measured. Beyond the paper; docs/method.md.

*Closeness* is the signal-to-noise ratio of the finished latent, as the model works in it, in dB: 10 log10(mean of its
squares / mean squared difference to the latent that all steps computed would have made).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The controller adds up what was wrong (`State.share_wrong`). Of the runs of the demo model on which its constants were
# found (docs/method.md), nine of ten came this close to that.
BELOW, ABOVE = 7.5, 7.5

LARGEST = 40.0  # dB; beyond it nobody sees a difference, and nothing more is claimed

# Marks on the dial.
DRAFT, GOOD, FAITHFUL = 18.0, 25.0, 33.0
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
            return "very hard to tell apart"
        if self.db >= GOOD:
            return "hard to tell apart"
        return "small differences" if self.db >= DRAFT else "visible differences"

    def __str__(self) -> str:
        return f"{self.db:.0f} dB ({self.low:.0f} to {self.high:.0f}): {self.words}"


def closeness_of(wrong: float) -> Estimate:
    """Of a video in which so much is wrong, as of `State.share_wrong`."""
    db = LARGEST if wrong <= 0 else min(-10 * math.log10(wrong), LARGEST)
    return Estimate(db, db - BELOW, min(db + ABOVE, LARGEST))


def wrong_of(closeness: float) -> float:
    """What may be wrong in a video that is to be so close, in dB: `closeness_of` the other way round."""
    return float(10 ** (-closeness / 10))
