"""The output as the place of reuse: at a skipped step no model is called, the sampler is given a forecast.

What is forecast is what the sampler is given, after guidance. So it works on any model, holds two tensors of the
latent's size, and needs to know nothing of what happens inside.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .control import ErrorControl, State, flow_level, place_of
from .forecast import Forecast, distance
from .plan import Schedule
from .schedule import Decision


class Output:
    """Of one run: what was computed last, and whether the next step has to be.

    Args:
        control: decides; its course is this run's.
        flow: whether latents are (1 - level) video + level noise; else they are video + sigma noise.
        fresh_noise: whether the sampler adds noise of its own. Then the velocity, which points to the noise, does not
            go on as it was; the video does.
        schedule: what to compute, instead of what the errors say.
        changing: steps at which the output jumps, and why: nothing that was found before one goes on after it.
        mask: where the latent is made, 0 to 1; elsewhere it is given, and no error counts. Broadcasts to the latent.
        before: see `ErrorControl.begin`.
    """

    def __init__(
        self,
        control: ErrorControl,
        *,
        flow: bool = True,
        fresh_noise: bool = False,
        schedule: Schedule | None = None,
        changing: Mapping[int, str] | None = None,
        mask: Tensor | None = None,
        before: State | None = None,
    ) -> None:
        self.control = control
        self.state = control.begin(before)
        self._flow = flow
        self._fresh_noise = fresh_noise
        self._planned = None if schedule is None else schedule.for_steps(control.course.steps).computed
        self._changing = dict(changing or {})
        self._mask = mask
        self._forecast: Forecast | None = None
        self._decided: dict[int, Decision] = {}  # all evaluations of a step are computed, or all are reused

    @property
    def never_skips(self) -> bool:
        """Whether it is known before the run that nothing can be reused."""
        return self.control.never_skips if self._planned is None else all(self._planned)

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
        if self._planned is not None:
            reason = self.control.course.computed.get(step, "")
            return Decision(bool(reason) or self._planned[step], reason or "as planned")
        reason = self.control.why_computed(self.state, step)
        return Decision(bool(reason), reason or "below tolerance")

    def changes(self, step: int, why: str) -> None:
        """The output jumps at this step, of which nothing was decided yet; it was not known before the run."""
        self._changing[step] = why

    def fits(self, x: Tensor) -> bool:
        """Whether there is a forecast for a latent of this shape."""
        return self._forecast is not None and self._forecast.velocity.shape == x.shape

    def forecast(self, sigma: float, x: Tensor) -> Tensor:
        """The video that the model is expected to find.

        Args:
            sigma: noise level of the evaluation, as the sampler counts it, above 0.
            x: the latent, as the sampler has it.

        Returns:
            Of the shape of x.
        """
        assert self._forecast is not None, "the first step is computed"
        expected = self._forecast.at(self._place(sigma))
        if self._fresh_noise:
            return expected
        level = flow_level(sigma, self._flow)
        return self._scaled(x, sigma) - level * expected

    def found(self, step: int, sigma: float, x: Tensor, video: Tensor, off: Tensor | None = None) -> float | None:
        """Takes note of what the model found.

        Args:
            step: whose evaluation it is.
            sigma, x: as of `forecast`.
            video: what was found, of the shape of x.
            off: how far x was from where it should be (`Corrector.off`); None: nobody knows.

        Returns:
            How wrong the forecast of it would have been, relative to the velocity; None if there was none, or at a
            second evaluation of a step, which is too near to the first one to tell.
        """
        if self.state.last == step:
            return None
        level = flow_level(sigma, self._flow)
        velocity = (self._scaled(x, sigma) - video) / level
        error = None
        if step in self._changing:
            self._forecast = None
        if self.fits(video):
            assert self._forecast is not None
            expected = self._forecast.at(self._place(sigma))
            if self._fresh_noise:
                expected = (self._scaled(x, sigma) - expected) / level
            error = distance(velocity, expected, self._mask)
        how_far = None if off is None else self._power(self._scaled(off, sigma)) ** 0.5
        self.state = self.control.computed(self.state, step, error, how_far, self._power(video))
        self._remember(sigma, video if self._fresh_noise else velocity)
        return error

    def _power(self, tensor: Tensor) -> float:
        """Mean square of what is made of it."""
        whole = tensor.float()
        return float((whole if self._mask is None else whole * self._mask).square().mean())

    @property
    def bytes_held(self) -> int:
        """By the forecast."""
        return 0 if self._forecast is None else self._forecast.bytes_held

    def _remember(self, sigma: float, quantity: Tensor) -> None:
        place = self._place(sigma)
        before = self._forecast
        self._forecast = Forecast(place, quantity) if before is None else before.after(place, quantity, self._mask)

    def _place(self, sigma: float) -> float:
        return place_of(min(flow_level(sigma, self._flow), 1.0))  # churned noise lies above all levels

    def _scaled(self, x: Tensor, sigma: float) -> Tensor:
        """The latent as a flow model would have it."""
        return x if self._flow else x / (1 + sigma)
