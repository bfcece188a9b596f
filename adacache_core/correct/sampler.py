"""What a sampler does with the denoised latents it is given, found before the run by probing it.

A probe lets the sampler sample a few numbers with a model whose outputs we choose. It shows whether the sampler adds
noise, how it moves, and how often it evaluates the model. No sampler is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

ON_LEVEL = 1e-3  # relative: how near an evaluation must be to the noise level of its step
MAX_MEMORY = 5  # denoised latents, this step's included; ComfyUI's samplers that forget at all remember no more
NEGLIGIBLE = 1e-3  # weight of a denoised latent, relative to the newest one's
MAX_AMPLIFICATION = 2.0  # of a correction, by what undoes it in the sampler's memory
FORGOTTEN = 1e-6  # part of a latent; if no more is left, the sampler goes on from the denoised latent alone
MOST_EVALUATIONS = 20  # per step; a sampler that takes more is not probed to its end
STEP_TOLERANCE = 1e-4  # relative; samplers that add noise move a level a little before they use it

# A latent and its noise level -> the denoised latent, of the same shape.
Model = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class LinearStep:
    """A step of a sampler: next latent = keep * latent + sum of weights[i] * (denoised latent i steps ago)."""

    keep: float
    weights: tuple[float, ...]


def euler(sigmas: Sequence[float]) -> Callable[[Model, Tensor], Tensor]:
    """Euler's method, as a function that `linear_steps_of` and `probe_sampler` take."""

    def sample(model: Model, x: Tensor) -> Tensor:
        for sigma, following in pairwise(sigmas):
            x = x + (following - sigma) * (x - model(x, sigma)) / sigma
        return x

    return sample


def linear_steps_of(sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float]) -> list[LinearStep] | None:
    """What a sampler does at every step.

    It samples steps + 2 numbers. The denoised latent of step k is 1 at number k and 0 elsewhere, so number k shows the
    weights of that step. One more number shows what becomes of the noise. The last one must stay zero, or the sampler
    adds noise of its own.

    Args:
        sampler: from a model and a latent of any shape at the first level to the sample, linear in both.
        sigmas: its noise levels, falling, (steps + 1,).

    Returns:
        (steps,), or None if it fails, does not evaluate the model once at every level, adds noise, remembers more than
        MAX_MEMORY denoised latents, or gives the one of the step itself too little weight.
    """
    steps = len(sigmas) - 1
    noise, zero = steps, steps + 1
    latents: list[Tensor] = []

    def model(x: Tensor, sigma: float) -> Tensor:
        step = len(latents)
        if step == steps or not on_level(sigma, sigmas[step]):
            raise ValueError("this sampler leaves the levels")
        latents.append(x.detach().flatten().double())
        denoised = torch.zeros_like(x)
        denoised.flatten()[step] = 1
        return denoised

    start = torch.zeros(1, 1, 1, 1, steps + 2)
    start[..., noise] = 1
    try:
        latents.append(sampler(model, start).detach().flatten().double())
    except Exception:  # it may want more of a model
        return None
    if len(latents) != steps + 1 or any(x[zero] != 0 or not x.isfinite().all() for x in latents):
        return None
    return _steps_between(latents, noise)


def _steps_between(latents: Sequence[Tensor], noise: int) -> list[LinearStep] | None:
    """See `linear_steps_of`; `latents` are those before every step, and the sample."""
    steps = []
    for step, (before, after) in enumerate(pairwise(latents)):
        keep = after[noise] / before[noise]
        weights = (after - keep * before)[: step + 1].flip(0).tolist()
        if not weights[0] > 0:  # also not a number, if nothing was left of the latent before
            return None
        while abs(weights[-1]) <= NEGLIGIBLE * weights[0]:
            weights.pop()
        if len(weights) > MAX_MEMORY:
            return None
        steps.append(LinearStep(float(keep), tuple(weights)))
    return steps if _forgets(steps) else None


def _forgets(steps: Sequence[LinearStep]) -> bool:
    """Whether what undoes a correction in the sampler's memory fades from step to step, instead of growing."""
    for first in range(len(steps)):
        deficits = [1.0]  # newest first
        for step in steps[first + 1 :]:
            owed = sum(weight * deficit for weight, deficit in zip(step.weights[1:], deficits, strict=False))
            deficits.insert(0, -owed / step.weights[0])
        if max(map(abs, deficits)) > MAX_AMPLIFICATION:
            return False
    return True


def on_level(sigma: float, level: float) -> bool:
    return sigma > 0 and abs(sigma - level) <= ON_LEVEL * level


@dataclass(frozen=True)
class Sampler:
    """What is known about a run's sampler before the run.

    Attributes:
        sigmas: noise levels of the run, falling, (steps + 1,).
        linear_steps: see `linear_steps_of`; None: errors of skipped steps cannot be corrected.
        draws_noise: whether it adds fresh noise, so that any difference grows into another video; None: not known.
        starts_over: whether nothing of a latent is left in the next one, only its denoised latent.
        evaluations: how often it evaluates the model at each step, (steps,); None: not known.
        name: what people call it.
    """

    sigmas: Sequence[float]
    linear_steps: Sequence[LinearStep] | None = None
    draws_noise: bool | None = None
    starts_over: bool = False
    evaluations: tuple[int, ...] | None = None
    name: str = "the sampler"


def probe_sampler(
    sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float], name: str = Sampler.name
) -> Sampler:
    """Finds out what can be known about a sampler.

    Args:
        sampler: from a model and a latent of any shape at the first level to the sample; it must draw the same noise
            each time.
        sigmas: its noise levels, falling, (steps + 1,).
        name: what people call it.
    """
    zero = _evaluations_of(sampler, sigmas)
    if zero is None:
        return Sampler(sigmas, name=name)
    draws_noise = any(bool(x.any()) for _, x in zero)
    middle = len(zero) // 2 - 1
    once = _evaluations_of(sampler, sigmas, one_at=middle)
    if once is None or [sigma for sigma, _ in once] != [sigma for sigma, _ in zero]:  # it chooses its own steps
        return Sampler(sigmas, draws_noise=draws_noise, name=name)
    left = [float((x - plain).abs().max()) for (_, x), (_, plain) in zip(once, zero, strict=True)][middle + 1 :]
    steps = [step_of(sigma, sigmas) for sigma, _ in zero[:-1]]
    evaluations = tuple(map(steps.count, range(len(sigmas) - 1)))
    return Sampler(
        sigmas,
        linear_steps_of(sampler, sigmas),
        draws_noise,
        starts_over=set(evaluations) == {1} and len(left) > 2 and left[1] <= FORGOTTEN * left[0],
        evaluations=evaluations,
        name=name,
    )


def _evaluations_of(
    sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float], one_at: int | None = None
) -> list[tuple[float, Tensor]] | None:
    """Noise level and latent of every evaluation, then of the sample, where all denoised latents are zero.

    Args:
        sampler, sigmas: see `probe_sampler`.
        one_at: the evaluation whose denoised latent is one instead.

    Returns:
        None if the sampler fails.
    """
    evaluations: list[tuple[float, Tensor]] = []

    def model(x: Tensor, sigma: float) -> Tensor:
        if len(evaluations) == MOST_EVALUATIONS * len(sigmas):
            raise ValueError("this sampler does not come to an end")
        evaluations.append((sigma, x.detach().clone()))
        return torch.full_like(x, float(len(evaluations) - 1 == one_at))

    try:
        sample = sampler(model, torch.zeros(1, 1, 1, 1, 4))
    except Exception:  # it may want more of a model
        return None
    return [*evaluations, (0.0, sample.detach())]


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The sampler step that a noise level belongs to.

    The largest j with sigma <= sigmas[j], with a tolerance of a quarter of the gap to the level above
    (flow models with a large shift crowd their levels near 1), at most 1e-4.

    Args:
        sigma: noise level of an evaluation.
        sigmas: levels of the run, falling, (steps + 1,).

    Returns:
        0..steps-1.
    """
    step = 0
    for index in range(1, len(sigmas) - 1):
        gap = (sigmas[index - 1] - sigmas[index]) / sigmas[index] if sigmas[index] > 0 else 0.0
        if sigma <= sigmas[index] * (1 + min(STEP_TOLERANCE, max(0.0, gap / 4))):
            step = index
    return step
