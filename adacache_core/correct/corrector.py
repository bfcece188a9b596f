"""Error correction: a computed step corrects the errors of the skipped steps before it. Beyond the paper.

Between two computed steps the sampler moved with forecast velocities. At the second one we estimate these
velocities again: they lie near the straight line from the first one to the second. This shows where the latent should
be, and the sampler is given the denoised latent that leads it back there. It is the corrector of a predictor-corrector
method for ODEs, without another model call. See docs/method.md.

A forecast is the last velocity plus a multiple of its slope. So its deviation from the straight line is a combination
of that slope and of the velocity's change, and is kept as two numbers instead of a tensor. Only what a multistep
sampler remembers is held as tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .sampler import LinearStep

MAX_GAP = 1 / 4  # of a run; between computed steps further apart, the straight line says nothing
SIGNAL_FRACTION = 1 / 2  # of an error in the latent; the model takes this part for signal and the rest for noise


@dataclass(frozen=True)
class Change:
    """How the velocity changed from the last computed step to this one.

    Attributes:
        slope: the one that forecasts in between used; None: they held the velocity.
        total: the whole change.
    """

    slope: Tensor | None
    total: Tensor


class Corrector:
    """The corrector of one run. It must be told every step, in order.

    Args:
        levels: flow noise levels of the run, falling, (steps + 1,).
        linear_steps: what the sampler does at each step to latents of a flow model, (steps,).

    Attributes:
        latent_error: where the latent of this step should have been, minus where it was; None: not known.
    """

    def __init__(self, levels: Sequence[float], linear_steps: Sequence[LinearStep]) -> None:
        self._levels = levels
        self._linear_steps = linear_steps
        self._remembered = max(len(linear.weights) for linear in linear_steps)
        self._last: int | None = None  # computed step
        # Deviations as multiples of (slope, total change): of the latent, and of the denoised latents since the last
        # computed step, newest first.
        self._latent = np.zeros(2)
        self._skipped: list[np.ndarray] = []
        self._deficits: list[Tensor | None] = []  # of the denoised latents that the sampler remembers, newest first
        self.latent_error: Tensor | None = None

    def skipped(self, step: int, denoised: Tensor, ahead: float) -> Tensor:
        """What the sampler is to be given at a skipped step.

        Args:
            step: 0..steps-1.
            denoised: the forecast.
            ahead: the multiple of the slope that the forecast added to the last velocity.
        """
        assert self._last is not None, "the first step is computed"
        self.latent_error = None
        linear = self._linear_steps[step]
        deviation = self._latent + self._levels[step] * np.array([ahead, self._last - step])
        self._skipped = [deviation, *self._skipped][: self._remembered]
        passed_on = sum(weight * each for weight, each in zip(linear.weights, self._skipped, strict=False))
        self._latent = linear.keep * self._latent + passed_on
        return self._given(linear, denoised, denoised, None)

    def computed(self, step: int, denoised: Tensor, change: Change | None) -> Tensor:
        """What the sampler is to be given at a computed step.

        Args:
            step: 0..steps-1.
            denoised: the model's.
            change: of the velocity; None: it jumped, or there was none before.
        """
        self.latent_error = None
        if self._skipped and self._last is not None and change is not None:
            self._settle(step - self._last, change)
        self._last, self._latent, self._skipped = step, np.zeros(2), []
        best = denoised if self.latent_error is None else denoised + SIGNAL_FRACTION * self.latent_error
        return self._given(self._linear_steps[step], denoised, best, self.latent_error)

    def _settle(self, gap: int, change: Change) -> None:
        """Turns the deviations since the last computed step into tensors; the change is known now."""
        if gap > MAX_GAP * len(self._linear_steps):
            return

        def error(deviation: np.ndarray) -> Tensor:
            along, across = map(float, deviation)
            straight = (across / gap) * change.total
            return straight if change.slope is None else straight + along * change.slope

        for back, (deficit, deviation) in enumerate(zip(self._deficits, self._skipped, strict=False)):
            self._deficits[back] = error(deviation) if deficit is None else deficit + error(deviation)
        self.latent_error = error(self._latent)

    def _given(self, linear: LinearStep, denoised: Tensor, best: Tensor, latent_error: Tensor | None) -> Tensor:
        """The denoised latent that leads the sampler to where it should be, whatever it remembers.

        Args:
            linear: of this step.
            denoised: without correction.
            best: the best estimate of what this step should have denoised.
            latent_error: of this step, if known.
        """
        remembered = zip(linear.weights[1:], self._deficits, strict=False)
        owed = [weight * deficit for weight, deficit in remembered if deficit is not None]
        if latent_error is not None:
            owed.append(linear.keep * latent_error)
        given = best + sum(owed[1:], owed[0]) / linear.weights[0] if owed else best
        self._deficits = [best - given if owed else None, *self._deficits][: self._remembered - 1]
        return given if owed else denoised

    @property
    def bytes_held(self) -> int:
        return sum(each.untyped_storage().nbytes() for each in self._deficits if each is not None)
