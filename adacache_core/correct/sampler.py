"""What a sampler does with what it is given, found by letting it sample a few numbers with a model that is known.

No sampler is known by name: what is true of one (that it adds noise, how it moves, how often it evaluates the model) is
seen from outside, before the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

ON_LEVEL = 1e-3  # relative: how near to its step's noise level an evaluation has to be
REMEMBERED = 5  # videos, this step's included: of the host's samplers those that forget at all look no further back
NEGLIGIBLE = 1e-3  # relative weight of a video
MAX_AMPLIFICATION = 2.0  # times a correction, may what undoes it in the sampler's memory be
FORGOTTEN = 1e-6  # of a latent is left: the sampler goes on from the video alone
MOST_EVALUATIONS = 20  # per step: who takes more is not watched to the end
STEP_TOLERANCE = 1e-4  # relative: samplers that add noise move a level a little before they use it

# A latent and its noise level -> the video that is found in it, of the same shape.
Model = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class LinearStep:
    """How a sampler goes on from a step: next latent = keep * latent + sum of weights[i] * video i steps ago."""

    keep: float
    weights: tuple[float, ...]


def euler(sigmas: Sequence[float]) -> Callable[[Model, Tensor], Tensor]:
    """The sampler that goes straight on with the present velocity, as a function to ask; see `linear_steps_of`."""

    def sample(model: Model, x: Tensor) -> Tensor:
        for sigma, following in pairwise(sigmas):
            x = x + (following - sigma) * (x - model(x, sigma)) / sigma
        return x

    return sample


def linear_steps_of(sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float]) -> list[LinearStep] | None:
    """What a sampler does at every step, found by letting it sample a few numbers with a model that is known.

    One number is the noise, one stands for the video of each step, and one is nothing and has to stay so: then nothing
    is drawn by chance.

    Args:
        sampler: from a model and a latent of any shape at the first level to the sample, linear in both.
        sigmas: its noise levels, falling, (steps + 1,).

    Returns:
        (steps,), or None if it fails, does not evaluate the model once at every level, adds noise, remembers more than
        REMEMBERED videos, or gives the video of the step itself too little weight.
    """
    steps = len(sigmas) - 1
    noise, nothing = steps, steps + 1
    latents: list[Tensor] = []

    def model(x: Tensor, sigma: float) -> Tensor:
        step = len(latents)
        if step == steps or not on_level(sigma, sigmas[step]):
            raise ValueError("this sampler leaves the levels")
        latents.append(x.detach().flatten().double())
        video = torch.zeros_like(x)
        video.flatten()[step] = 1
        return video

    start = torch.zeros(1, 1, 1, 1, steps + 2)
    start[..., noise] = 1
    try:
        latents.append(sampler(model, start).detach().flatten().double())
    except Exception:  # it may want more than a video of its model
        return None
    if len(latents) != steps + 1 or any(x[nothing] != 0 or not x.isfinite().all() for x in latents):
        return None
    return _steps_between(latents, noise)


def _steps_between(latents: Sequence[Tensor], noise: int) -> list[LinearStep] | None:
    """See `linear_steps_of`; latents as they were before every step and at the end."""
    steps = []
    for step, (before, after) in enumerate(pairwise(latents)):
        keep = after[noise] / before[noise]
        weights = (after - keep * before)[: step + 1].flip(0).tolist()
        if not weights[0] > 0:  # nor a number, where nothing was left of the latent before
            return None
        while abs(weights[-1]) <= NEGLIGIBLE * weights[0]:
            weights.pop()
        if len(weights) > REMEMBERED:
            return None
        steps.append(LinearStep(float(keep), tuple(weights)))
    return steps if _forgets(steps) else None


def _forgets(steps: Sequence[LinearStep]) -> bool:
    """Whether undoing what a correction left in the sampler's memory fades, instead of growing from step to step."""
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
    """What is known of a run's sampler before the run.

    Attributes:
        sigmas: noise levels of the run, falling, (steps + 1,).
        linear_steps: see `linear_steps_of`; None: errors of skipped steps cannot be corrected.
        draws_noise: whether it adds fresh noise, so that any difference grows into another video; None: not known.
        starts_over: whether nothing of a latent is left in the next one: only the video found in it goes on.
        evaluations: how often it evaluates the model at each step, (steps,); None: not known.
        looks_inside: whether it uses more of the model than its denoised output, as CFG++ does.
        name: what people call it.
    """

    sigmas: Sequence[float]
    linear_steps: Sequence[LinearStep] | None = None
    draws_noise: bool | None = None
    starts_over: bool = False
    evaluations: tuple[int, ...] | None = None
    looks_inside: bool = False
    name: str = "the sampler"


def probe_sampler(
    sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float], name: str = Sampler.name
) -> Sampler:
    """Lets a sampler sample, and says what was seen.

    Args:
        sampler: from a model and a latent of any shape at the first level to the sample; it draws the same noise each
            time.
        sigmas: its noise levels, falling, (steps + 1,).
        name: what people call it.
    """
    nothing = _watched(sampler, sigmas)
    if nothing is None:
        return Sampler(sigmas, name=name)
    draws_noise = any(bool(x.any()) for _, x in nothing)
    middle = len(nothing) // 2 - 1
    once = _watched(sampler, sigmas, seen_at=middle)
    if once is None or [sigma for sigma, _ in once] != [sigma for sigma, _ in nothing]:  # it chooses its own steps
        return Sampler(sigmas, draws_noise=draws_noise, name=name)
    left = [float((x - plain).abs().max()) for (_, x), (_, plain) in zip(once, nothing, strict=True)][middle + 1 :]
    steps = [step_of(sigma, sigmas) for sigma, _ in nothing[:-1]]
    evaluations = tuple(map(steps.count, range(len(sigmas) - 1)))
    return Sampler(
        sigmas,
        linear_steps_of(sampler, sigmas),
        draws_noise,
        starts_over=set(evaluations) == {1} and len(left) > 2 and left[1] <= FORGOTTEN * left[0],
        evaluations=evaluations,
        name=name,
    )


def _watched(
    sampler: Callable[[Model, Tensor], Tensor], sigmas: Sequence[float], seen_at: int | None = None
) -> list[tuple[float, Tensor]] | None:
    """Noise level and latent of every evaluation, and of the sample, from nothing, where the model sees nothing.

    Args:
        sampler, sigmas: see `probe_sampler`.
        seen_at: the one evaluation at which it does see something.

    Returns:
        None if the sampler fails.
    """
    seen: list[tuple[float, Tensor]] = []

    def model(x: Tensor, sigma: float) -> Tensor:
        if len(seen) == MOST_EVALUATIONS * len(sigmas):
            raise ValueError("this sampler does not come to an end")
        seen.append((sigma, x.detach().clone()))
        return torch.full_like(x, float(len(seen) - 1 == seen_at))

    try:
        sample = sampler(model, torch.zeros(1, 1, 1, 1, 4))
    except Exception:  # it may want more than a video of its model
        return None
    return [*seen, (0.0, sample.detach())]


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
