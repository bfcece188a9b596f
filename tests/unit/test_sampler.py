"""What is seen of a sampler by letting it sample."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from toys import heun

from adacache_core.correct.sampler import Sampler, euler, probe_sampler, step_of

STEPS = 12
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]


def looks_ahead(model, x):
    """As heunpp2 does: it comes back to levels that it has left."""
    for step, (sigma, following) in enumerate(pairwise(SIGMAS)):
        d = (x - model(x, sigma)) / sigma
        for further in SIGMAS[step + 1 : min(step + 3, STEPS)]:
            model(x + (further - sigma) * d, further)
        x = x + (following - sigma) * d
    return x


def ancestral(model, x):
    for sigma, following in pairwise(SIGMAS):
        down = following / 2
        x = x + (down - sigma) * (x - model(x, sigma)) / sigma + down * torch.randn_like(x)
    return x


def starts_over(model, x):
    for sigma, following in pairwise(SIGMAS):
        x = model(x, sigma)
        x = x + following * torch.randn_like(x)
    return x


def between(model, x):
    """Two evaluations a step, the second half of the way to the next level."""
    for sigma, following in pairwise(SIGMAS):
        model(x, sigma)
        model(x, (sigma + following) / 2)
        x = x * following / sigma
    return x


def of_its_own_steps(model, x):
    """Its number of evaluations depends on what the model answers."""
    for sigma, following in pairwise(SIGMAS):
        if model(x, sigma).any() or model(x, sigma).any():
            model(x, sigma)
        x = x * following / sigma
    return x


def endless(model, x):
    while True:
        x = model(x, 0.5)


def broken(model, x):
    raise KeyError("it wants more than a video")


def seeded(sampler):
    """As the host's are asked: the same noise each time."""

    def sample(model, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return sampler(model, x)

    return sample


@pytest.mark.parametrize(
    ("sampler", "draws_noise", "over", "evaluations", "corrected"),
    [
        (euler(SIGMAS), False, False, (1,) * 12, True),
        (heun(SIGMAS), False, False, (1, *(2,) * 11), False),
        (looks_ahead, False, False, (1, 2, *(3,) * 10), False),
        (between, False, False, (2,) * 12, False),
        (ancestral, True, False, (1,) * 12, False),
        (starts_over, True, True, (1,) * 12, False),
        (of_its_own_steps, False, False, None, False),
        (endless, None, False, None, False),
        (broken, None, False, None, False),
    ],
)
def test_what_is_seen_of_a_sampler(sampler, draws_noise, over, evaluations, corrected):
    found = probe_sampler(seeded(sampler), SIGMAS, "it")
    assert (found.draws_noise, found.starts_over, found.evaluations) == (draws_noise, over, evaluations)
    assert (found.linear_steps is not None) == corrected
    assert (found.name, list(found.sigmas)) == ("it", SIGMAS)


def test_a_level_that_a_sampler_moved_a_little_is_still_its_own():
    assert [step_of(sigma * (1 + 5e-5), SIGMAS) for sigma in SIGMAS[:-1]] == list(range(STEPS))
    assert step_of(SIGMAS[3] * (1 + 5e-4), SIGMAS) == 2


def test_of_a_sampler_that_was_not_asked_nothing_is_claimed():
    assert Sampler(SIGMAS) == Sampler(SIGMAS, None, None, False, None, "the sampler")
