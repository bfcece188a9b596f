"""The output as the place of reuse: at a skipped step no model is called, the sampler is given a forecast.

What is forecast is what the sampler is given, after guidance. So it works on any model, holds two tensors of the
latent's size, and needs to know nothing of what happens inside.
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
    """Of one run: what was computed last, and whether the next step has to be.

    Args:
        controller: decides; its course is this run's.
        sampler: what is known of it; its linear steps, if it has any, are corrected.
        flow: whether latents are (1 - level) video + level noise; else they are video + sigma noise.
        changing: steps at which the output jumps, and why: nothing that was found before one goes on after it.
        mask: where the latent is made, 0 to 1; elsewhere it is given, and no error counts. Broadcasts to the latent.
        before: see `ErrorController.begin`.

    Attributes:
        corrected: whether the sampler was last given something else than was found or forecast.
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
        # Where noise is drawn, the velocity, which points to the noise, does not go on as it was; the video does.
        self._fresh_noise = sampler.draws_noise is True
        self._sigmas = sampler.sigmas
        self._corrector = None if sampler.linear_steps is None else _corrector(sampler, flow)
        self._next: int | None = None  # step that the corrector expects
        self._changing = dict(changing or {})
        self._mask = mask
        self._forecast: Forecast | None = None
        self._decided: dict[int, Decision] = {}  # all evaluations of a step are computed, or all are reused

    def decide(self, step: int) -> Decision:
        """Whether this step computes; asked again, it says the same."""
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
        """The output jumps at this step, of which nothing was decided yet; it was not known before the run."""
        self._changing[step] = why

    def fits(self, x: Tensor) -> bool:
        """Whether there is a forecast for a latent of this shape."""
        return self._forecast is not None and self._forecast.velocity.shape == x.shape

    @property
    def corrects(self) -> bool:
        """Whether the sampler is one that can be corrected, and has gone as it was expected to."""
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
        """Takes note of what the model found.

        Args:
            step, sigma, x: as of `forecast`.
            denoised: what was found, of the shape of x.

        Returns:
            What the sampler is to be given, and how wrong the forecast would have been, relative to the velocity: None
            if there was none, or at a second evaluation of a step, which is too near to the first one to tell.
        """
        self.corrected = False
        if self.state.last == step:
            self._corrector = None
            return denoised, None
        level = flow_level(sigma, self._flow)
        velocity = (self._scaled(x, sigma) - denoised) / level
        if self._forecast is not None and not self.fits(denoised):  # another size: nothing goes on
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
        """What the sampler is to be given, and how far off its latent was (root mean square)."""
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
        """Mean square of what is made of it."""
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
        return log_snr(min(flow_level(sigma, self._flow), 1.0))  # churned noise lies above all levels

    def _scaled(self, x: Tensor, sigma: float) -> Tensor:
        """The latent as a flow model would have it."""
        return x if self._flow else x / (1 + sigma)


def _corrector(sampler: Sampler, flow: bool) -> Corrector:
    """Of a sampler with linear steps, whose latents are counted as those of a flow model."""
    assert sampler.linear_steps is not None
    levels = [flow_level(sigma, flow) for sigma in sampler.sigmas]
    linear_steps = sampler.linear_steps
    if not flow:
        linear_steps = [
            LinearStep(each.keep * (1 + sigma) / (1 + after), tuple(weight / (1 + after) for weight in each.weights))
            for each, (sigma, after) in zip(linear_steps, pairwise(sampler.sigmas), strict=True)
        ]
    return Corrector(levels, linear_steps)
