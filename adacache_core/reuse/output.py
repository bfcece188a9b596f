"""Reuse at the output: at a skipped step no model is called, and the sampler is given a forecast.

The forecast is of the denoised latent after guidance. So this works on any model, holds two tensors of the latent's
size, and needs to know nothing about the model's inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from ..correct.corrector import Change, Corrector
from ..correct.sampler import LinearStep, Sampler, on_level
from ..decide.base import Decision
from ..decide.error_control import ErrorController, ErrorState, Found
from ..decide.levels import flow_level, log_snr
from .forecast import Forecast, distance


class Output:
    """Forecasts and corrects the output in one run, and decides with its controller when to compute.

    Args:
        controller: decides; its course is this run's.
        sampler: what is known about it; errors are corrected if it has linear steps.
        flow: whether latents are (1 - level) video + level noise; else they are video + sigma noise.
        changing: steps at which the output jumps, and why; no forecast goes across them.
        mask: where the latent is made, from 0 to 1; elsewhere it is given, and errors do not count. Broadcasts to the
            latent.
        before: see `ErrorController.begin`.

    Attributes:
        corrected: whether what the sampler was given last was corrected.
    """

    def __init__(
        self,
        controller: ErrorController,
        sampler: Sampler,
        *,
        flow: bool = True,
        changing: Mapping[int, str] | None = None,
        mask: Tensor | None = None,
        before: ErrorState | None = None,
    ) -> None:
        self.controller = controller
        self.state = controller.begin(before)
        self.corrected = False
        self._flow = flow
        # Fresh noise changes the velocity, which points to the noise. The denoised latent continues as it changed.
        self._fresh_noise = sampler.draws_noise is True
        self._sigmas = sampler.sigmas
        self._corrector = None if sampler.linear_steps is None else _corrector(sampler, flow)
        self._next: int | None = None  # step that the corrector expects
        self._changing = dict(changing or {})
        self._mask = mask
        self._forecast: Forecast | None = None
        self._decided: dict[int, Decision] = {}

    def decide(self, step: int) -> Decision:
        """Whether this step computes; all evaluations of a step get the same answer."""
        if step not in self._decided:
            self._decided[step] = self._decision(step)
        return self._decided[step]

    def _decision(self, step: int) -> Decision:
        if self._forecast is None:
            return Decision(True, "first step")
        if step in self._changing:
            return Decision(True, self._changing[step])
        return self.controller.decide(self.state, step)

    def changes(self, step: int, why: str) -> None:
        """The output will jump at this step, which has not been decided yet; this was not known before the run."""
        self._changing[step] = why

    def fits(self, x: Tensor) -> bool:
        """Whether there is a forecast for a latent of this shape."""
        return self._forecast is not None and self._forecast.velocity.shape == x.shape

    @property
    def corrects(self) -> bool:
        """Whether errors are corrected: the sampler has linear steps, and has taken them as expected."""
        return self._corrector is not None

    def forecast(self, step: int, sigma: float, x: Tensor) -> Tensor:
        """What the sampler is to be given at a skipped step.

        Args:
            step: 0..steps-1.
            sigma: noise level of the evaluation, as the sampler counts it, above 0.
            x: the latent, as the sampler has it.

        Returns:
            Of the shape of x.
        """
        assert self._forecast is not None, "the first step is computed"
        self.corrected = False
        place = self._place(sigma)
        expected = self._forecast.at(place)
        if self._fresh_noise:
            return expected
        denoised = self._scaled(x, sigma) - flow_level(sigma, self._flow) * expected
        self._expect(step, sigma)
        if self._corrector is None:
            return denoised
        given = self._corrector.skipped(step, denoised, self._forecast.ahead(place))
        self.corrected = given is not denoised
        return given

    def found(self, step: int, sigma: float, x: Tensor, denoised: Tensor) -> tuple[Tensor, float | None]:
        """Takes in the denoised latent of a computed evaluation.

        Args:
            step, sigma, x: as of `forecast`.
            denoised: the model's, of the shape of x.

        Returns:
            What the sampler is to be given, and the error of the forecast for it, relative to the velocity. The error
            is None if there was no forecast, and at a second evaluation of a step, which is too near to the first one.
        """
        self.corrected = False
        if self.state.last == step:
            self._corrector = None
            return denoised, None
        level = flow_level(sigma, self._flow)
        velocity = (self._scaled(x, sigma) - denoised) / level
        if self._forecast is not None and not self.fits(denoised):  # another size: begin anew
            self._forecast = self._corrector = None
        if step in self._changing:
            self._forecast = None
        error = None
        if self._forecast is not None:
            expected = self._forecast.at(self._place(sigma))
            if self._fresh_noise:
                expected = (self._scaled(x, sigma) - expected) / level
            error = distance(velocity, expected, self._mask)
        given, latent_error = self._corrected(step, sigma, denoised, velocity)
        found = Found(error, latent_error, self._power(denoised))
        self.state = self.controller.computed(self.state, step, found)
        self._remember(sigma, denoised if self._fresh_noise else velocity)
        return given, error

    def _corrected(self, step: int, sigma: float, denoised: Tensor, velocity: Tensor) -> tuple[Tensor, float | None]:
        """What the sampler is to be given, and how far off its latent was (root mean square); None: not known."""
        self._expect(step, sigma)
        if self._corrector is None:
            return denoised, None
        before = self._forecast
        change = None if before is None else Change(before.slope, velocity - before.velocity)
        given = self._corrector.computed(step, denoised, change)
        self.corrected = given is not denoised
        error = self._corrector.latent_error
        return given, None if error is None else self._power(error) ** 0.5

    def _expect(self, step: int, sigma: float) -> None:
        """Gives up correcting unless this is the step after the last one, at its level."""
        if self._next not in (None, step) or not on_level(sigma, self._sigmas[step]):
            self._corrector = None
        self._next = step + 1

    def _power(self, tensor: Tensor) -> float:
        """Mean square inside the mask."""
        whole = tensor.float()
        return float((whole if self._mask is None else whole * self._mask).square().mean())

    @property
    def bytes_held(self) -> int:
        """By the forecast and the correction."""
        return sum(each.bytes_held for each in (self._forecast, self._corrector) if each is not None)

    def _remember(self, sigma: float, quantity: Tensor) -> None:
        place = self._place(sigma)
        before = self._forecast
        self._forecast = Forecast(place, quantity) if before is None else before.after(place, quantity, self._mask)

    def _place(self, sigma: float) -> float:
        return log_snr(min(flow_level(sigma, self._flow), 1.0))  # added noise (`s_churn`) lies above all levels

    def _scaled(self, x: Tensor, sigma: float) -> Tensor:
        """The latent at the scale of a flow model."""
        return x if self._flow else x / (1 + sigma)


def _corrector(sampler: Sampler, flow: bool) -> Corrector:
    """For a sampler with linear steps, at the scale of a flow model."""
    assert sampler.linear_steps is not None
    levels = [flow_level(sigma, flow) for sigma in sampler.sigmas]
    linear_steps = sampler.linear_steps
    if not flow:
        linear_steps = [
            LinearStep(each.keep * (1 + sigma) / (1 + after), tuple(weight / (1 + after) for weight in each.weights))
            for each, (sigma, after) in zip(linear_steps, pairwise(sampler.sigmas), strict=True)
        ]
    return Corrector(levels, linear_steps)
