"""Pays back at a computed step what the reused steps before it got wrong. Beyond the paper; see docs/method.md.

Between two computed steps the sampler moved with velocities that were held or forecast. Once the second one is
computed, the velocities between are better known: they lie near the straight line from the first to the second. What
the latent should have moved more is added to the velocity of this step, so that the sampler itself makes up for it:
the corrector of a predictor-corrector method for ODEs, at no model call.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

ON_LEVEL = 1e-3  # relative: how near to its step's noise level an evaluation has to be
FARTHEST = 1 / 4  # of a run: between computed steps further apart a straight line says nothing
ALONG = 0.05  # of a move: how far from x + (sigma' - sigma) * velocity it may lead


class Corrector:
    """Of one run. Holds three tensors of the latent's size.

    It corrects samplers that evaluate the model once per step and move along its velocity. One that does otherwise
    (heun, an ancestral one, lcm) is found out before anything was reused, and left alone from then on.

    Args:
        sigmas: noise levels of the run, falling, (steps + 1,).
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        self._sigmas = sigmas
        self._usable = True
        self._expected: tuple[int, Tensor, Tensor] | None = None  # of the first step: next one, x there, x before
        self._next: int | None = None
        self._last_step: int | None = None  # computed
        self._last: Tensor | None = None  # its velocity
        self._moved: Tensor | None = None  # by the reused steps since

    def __call__(self, step: int, sigma: float, x: Tensor, denoised: Tensor, computed: bool) -> Tensor:
        """The denoised latent that the sampler is to be given.

        Args:
            step: 0..steps-1.
            sigma: noise level of the evaluation.
            x: the latent that was evaluated, a mix of video and noise for which d x / d sigma = (x - video) / sigma.
            denoised: the model's video, of the shape of x.
            computed: whether all of it was computed.
        """
        if not self._usable:
            return denoised
        self._usable = self._is_as_expected(step, sigma, x)
        if not self._usable:
            self._last = self._moved = self._expected = None
            return denoised
        velocity, stride = (x - denoised) / sigma, self._sigmas[step + 1] - sigma
        if self._next is None:
            self._expected = step + 1, x + stride * velocity, x
        self._next = step + 1
        if not computed:
            move = stride * velocity
            self._moved = move if self._moved is None else self._moved + move
            return denoised
        owed = self._owed(step, velocity)
        self._last_step, self._last, self._moved = step, velocity, None
        return denoised if owed is None else denoised - sigma / stride * owed

    def _is_as_expected(self, step: int, sigma: float, x: Tensor) -> bool:
        """Whether the sampler goes from level to level along the velocity, as far as can be seen by now."""
        level = self._sigmas[step]
        if sigma <= 0 or abs(sigma - level) > ON_LEVEL * level or self._next not in (None, step):
            return False
        if self._last is not None and self._last.shape != x.shape:
            return False
        if self._expected is None or self._expected[0] != step:
            return True
        _, there, before = self._expected
        self._expected = None
        return bool((x - there).norm() <= ALONG * (x - before).norm())  # the one time that the GPU is waited for

    def _owed(self, step: int, velocity: Tensor) -> Tensor | None:
        """What the reused steps before this one should have moved beyond what they did, None if there were none."""
        if self._last is None or self._moved is None or self._last_step is None:
            return None
        if step - self._last_step > FARTHEST * (len(self._sigmas) - 1):
            return None
        old = new = 0.0  # how much of the two velocities the straight line between them moves
        for between in range(self._last_step + 1, step):
            move = self._sigmas[between + 1] - self._sigmas[between]
            share = (between - self._last_step) / (step - self._last_step)
            old += move * (1 - share)
            new += move * share
        return old * self._last + new * velocity - self._moved
