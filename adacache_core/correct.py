"""Pays back at a computed step what the reused steps before it got wrong. Beyond the paper; see docs/method.md.

Between two computed steps the sampler moved with velocities that were held or forecast. Once the second one is
computed, the velocities between are better known: they lie near the straight line from the first to the second. Where
the latent would be, had the sampler been given those, is known then as well, and it is given the video that leads it
back there: the corrector of a predictor-corrector method for ODEs, at no model call.

How the sampler uses what it is given, and for how long it remembers it, `sampler.py` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .sampler import Move, on_level

FARTHEST = 1 / 4  # of a run: between computed steps further apart a straight line says nothing
SEEN = 1 / 2  # of what is wrong in the latent the model takes for video, of the rest for noise


@dataclass
class _Wrong:
    """What is wrong in a tensor, as far as it is known before the next computed step: known - slope * bend.

    The bend is the change of velocity per step between the two computed ones.
    """

    known: Tensor
    slope: float

    def __add__(self, other: _Wrong) -> _Wrong:
        return _Wrong(self.known + other.known, self.slope + other.slope)

    def __rmul__(self, weight: float) -> _Wrong:
        return _Wrong(weight * self.known, weight * self.slope)

    def at(self, bend: Tensor) -> Tensor:
        return self.known - self.slope * bend


class Corrector:
    """Of one run. Holds at most two tensors of the latent's size, and two for every video that the sampler remembers.

    Args:
        sigmas: noise levels of the run, falling, (steps + 1,).
        moves: of the sampler, from `moves_of`.
    """

    def __init__(self, sigmas: Sequence[float], moves: Sequence[Move]) -> None:
        self._sigmas = sigmas
        self._moves = moves
        self._remembered = max(len(move.weights) for move in moves)
        self._usable = True
        self._next: int | None = None
        self._last: tuple[int, Tensor] | None = None  # computed step, its velocity
        self._latent: _Wrong | None = None  # what is wrong in the latent since then
        self._videos: list[_Wrong] = []  # and in the videos of the reused steps since then, newest first
        self._lacking: list[Tensor | None] = []  # in the videos that the sampler remembers, newest first
        self.off: Tensor | None = None  # how far the latent of this step was from where it should be; None: not known

    def __call__(self, step: int, sigma: float, x: Tensor, denoised: Tensor, computed: bool) -> Tensor:
        """The denoised latent that the sampler is to be given.

        Args:
            step: 0..steps-1.
            sigma: noise level of the evaluation.
            x: the latent that was evaluated, a mix of video and noise for which d x / d sigma = (x - video) / sigma.
            denoised: the model's video, of the shape of x.
            computed: whether all of it was computed.
        """
        self.off = None
        if not self._is_as_expected(step, sigma, x):
            self._usable, self._last, self._latent, self._videos, self._lacking = False, None, None, [], []
            return denoised
        self._next = step + 1
        velocity, move = (x - denoised) / sigma, self._moves[step]
        if computed:
            self.off = self._found_out(step, velocity)
            self._last, self._latent, self._videos = (step, velocity), None, []
        else:
            self._reused(step, sigma, velocity, move)
        remembered = zip(move.weights[1:], self._lacking, strict=False)
        owed = [weight * lack for weight, lack in remembered if lack is not None]
        believed = denoised
        if self.off is not None:
            owed.append(move.keep * self.off)
            believed = denoised + SEEN * self.off
        given = believed + sum(owed[1:], owed[0]) / move.weights[0] if owed else believed
        lack = None if given is denoised else believed - given
        self._lacking = [lack, *self._lacking][: self._remembered - 1]
        return given

    @property
    def works(self) -> bool:
        """Whether the sampler has gone as it was expected to."""
        return self._usable

    @property
    def bytes_held(self) -> int:
        wrong = [self._latent, *self._videos]
        tensors = [each.known for each in wrong if each is not None]
        tensors += [each for each in self._lacking if each is not None]
        tensors += [] if self._last is None else [self._last[1]]
        return sum({each.data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())

    def _is_as_expected(self, step: int, sigma: float, x: Tensor) -> bool:
        """Whether this is the evaluation after the last one, at its level and of the same shape."""
        same_shape = self._last is None or self._last[1].shape == x.shape
        return self._usable and self._next in (None, step) and on_level(sigma, self._sigmas[step]) and same_shape

    def _reused(self, step: int, sigma: float, velocity: Tensor, move: Move) -> None:
        """Follows what this step's velocity does to the latent beside that of the straight line."""
        if self._last is None:
            return
        last_step, last = self._last
        video = _Wrong(sigma * (velocity - last), sigma * (step - last_step))
        before = [] if self._latent is None else [self._latent]
        # The straight line begins at the last computed step: nothing is wrong with the videos before it.
        self._videos = [sum(before, video), *self._videos][: self._remembered]
        now, *earlier = (weight * wrong for weight, wrong in zip(move.weights, self._videos, strict=False))
        self._latent = sum([*earlier, *(move.keep * wrong for wrong in before)], now)

    def _found_out(self, step: int, velocity: Tensor) -> Tensor | None:
        """How far the latent of this computed step is from where it should be, None if nothing is known of that."""
        if self._last is None or self._latent is None:
            return None
        last_step, last = self._last
        if step - last_step > FARTHEST * (len(self._sigmas) - 1):
            return None
        bend = (velocity - last) / (step - last_step)
        for back, (lack, wrong) in enumerate(zip(self._lacking, self._videos, strict=False)):
            self._lacking[back] = wrong.at(bend) if lack is None else lack + wrong.at(bend)
        return self._latent.at(bend)
