"""What the model would say at a step that is not computed: its last velocity, continued along its last change.

The velocity is that of flow models, d x / d level = noise - video, after guidance; `decide.levels.flow_level` turns
other models into such. How much of the last change continues is measured: as much of it as came true at the last
computed step (a least-squares gain between 0 and 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_GAIN = 0.5  # before any forecast could be compared with the model


@dataclass(frozen=True)
class Forecast:
    """Holds two tensors of the latent's size: the last computed velocity and its slope.

    Attributes:
        place: where it was computed, in log-SNR (`decide/levels.py`).
        velocity: there.
        slope: its change since the computed one before, per log-SNR; None after the first one.
        gain: part of the slope that a forecast uses.
    """

    place: float
    velocity: Tensor
    slope: Tensor | None = None
    gain: float = FIRST_GAIN

    def at(self, place: float) -> Tensor:
        """The velocity expected there, of the shape of the last one."""
        if self.slope is None:
            return self.velocity
        return torch.add(self.velocity, self.slope, alpha=self.ahead(place))

    def ahead(self, place: float) -> float:
        """How much of the slope is in the velocity expected there."""
        return 0.0 if self.slope is None else self.gain * (place - self.place)

    @property
    def bytes_held(self) -> int:
        return sum(each.untyped_storage().nbytes() for each in (self.velocity, self.slope) if each is not None)

    def after(self, place: float, velocity: Tensor, mask: Tensor | None = None) -> Forecast:
        """From the velocity that was computed there; one of another shape, or at no distance, starts anew.

        Args:
            mask: as of `distance`.
        """
        if velocity.shape != self.velocity.shape or place == self.place:
            return Forecast(place, velocity)
        slope = (velocity - self.velocity) / (place - self.place)
        return Forecast(place, velocity, slope, FIRST_GAIN if self.slope is None else _share(self.slope, slope, mask))


def _share(expected: Tensor, found: Tensor, mask: Tensor | None) -> float:
    """How much of what was expected was found, in [0, 1]: the factor that brings them nearest to each other."""
    expected, found = expected.float(), found.float()
    if mask is not None:
        expected, found = expected * mask, found * mask
    expected, found = expected.flatten(), found.flatten()
    share = (expected @ found) / (expected @ expected)
    return float(share.nan_to_num(0.0).clamp(0, 1))


def distance(velocity: Tensor, forecast: Tensor, mask: Tensor | None = None) -> float:
    """How wrong a forecast was: root mean square of the difference over that of the velocity.

    Args:
        mask: what of both counts, 0 to 1, broadcasts to them; None: all.
    """
    found, wrong = velocity.float(), velocity.float() - forecast.float()
    if mask is not None:
        found, wrong = found * mask, wrong * mask
    return float((wrong.square().mean() / found.square().mean()).sqrt().nan_to_num(0.0))
