"""What reused steps got wrong is paid back at the next computed one."""

from itertools import pairwise

import pytest
import torch

from adacache_core.correct import Corrector

STEPS = 12
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
COMPUTED = {0, 3, 4, 7, 10, 11}


def euler(velocity, correct=True, computed=COMPUTED, sigmas=SIGMAS):
    """An Euler loop that holds the velocity of the last computed step; the latent before every step, and the end."""
    corrector = Corrector(sigmas)
    x, held, latents = torch.ones(2, 3), None, []
    for step, (sigma, following) in enumerate(pairwise(sigmas)):
        latents.append(x)
        if step in computed:
            held = velocity(x, step)
        denoised = x - sigma * held
        if correct:
            denoised = corrector(step, sigma, x, denoised, step in computed)
        x = x + (following - sigma) * (x - denoised) / sigma
    return torch.stack([*latents, x])


def straight(x, step):
    """A velocity that changes by as much every step, whatever x is: the straight line between is the truth."""
    return torch.tensor([1.0, -2.0, 0.5]) + step * torch.tensor([0.3, 0.1, -0.2])


def curved(x, step):
    return torch.sin(0.4 * step + x) + 0.05 * step**2


def test_if_the_velocity_changes_in_a_straight_line_everything_is_paid_back():
    plain = euler(straight, correct=False, computed=range(STEPS))
    corrected = euler(straight)
    after_computed = [step + 1 for step in COMPUTED]
    assert torch.allclose(corrected[after_computed], plain[after_computed], atol=1e-6)
    assert not torch.allclose(euler(straight, correct=False)[-1], plain[-1], atol=0.1)


def test_a_curved_path_ends_nearer_to_the_plain_one_than_without():
    plain = euler(curved, correct=False, computed=range(STEPS))[-1]
    without, corrected = ((euler(curved, correct)[-1] - plain).abs().max() for correct in (False, True))
    assert corrected < without / 2


def test_noise_levels_need_not_be_evenly_spread():
    sigmas = [(1 - step / STEPS) ** 2 for step in range(STEPS + 1)]
    plain = euler(straight, correct=False, computed=range(STEPS), sigmas=sigmas)
    assert torch.allclose(euler(straight, sigmas=sigmas)[-1], plain[-1], atol=1e-6)


def test_when_every_step_is_computed_nothing_is_changed():
    assert torch.equal(euler(curved, computed=range(STEPS)), euler(curved, correct=False, computed=range(STEPS)))


def test_a_reused_step_is_left_as_it_is():
    without = euler(curved, correct=False)
    assert torch.equal(euler(curved)[:4], without[:4])
    assert not torch.equal(euler(curved)[4], without[4])  # step 3 was computed


def test_over_too_long_a_way_nothing_is_paid_back():
    apart = {0, 4, 8, 11}
    assert torch.equal(euler(curved, computed=apart)[:11], euler(curved, correct=False, computed=apart)[:11])


# Of a sampler's evaluations: step, level (2.5 lies between the levels of steps 2 and 3), and how x differs from where
# the velocity leads.
SAMPLERS = {
    "evaluates a level twice": [(0, 0, 0.0), (1, 1, 0.0), (1, 1, 0.1)],
    "evaluates between levels": [(0, 0, 0.0), (0, 0.5, 0.0)],
    "leaves a step out": [(0, 0, 0.0), (2, 2, 0.0)],
    "adds noise": [(0, 0, 0.0), (1, 1, torch.tensor([0.1, -0.1, 0.1]))],
    "changes the size": [(0, 0, 0.0), (1, 1, torch.zeros(5, 1))],
}


@pytest.mark.parametrize("evaluations", SAMPLERS.values(), ids=SAMPLERS)
def test_a_sampler_that_does_not_go_along_the_velocity_is_left_alone(evaluations):
    corrector, denoised = Corrector(SIGMAS), torch.zeros(3)
    for step, level, off in evaluations:
        sigma = 1 - level / STEPS
        x = torch.full((3,), sigma) + off  # with denoised = 0 the velocity leads from 1 to 0
        corrector(step, sigma, x, torch.zeros_like(x), computed=True)
    for later in (step + 1, step + 2):
        sigma, computed = SIGMAS[later], later == step + 2
        assert corrector(later, sigma, torch.full((3,), sigma), denoised, computed) is denoised


def test_one_that_does_is_corrected():
    corrector = Corrector(SIGMAS)
    for step, wrong in enumerate((0.0, 0.7, 0.0)):
        x, denoised = torch.full((3,), SIGMAS[step]), torch.full((3,), wrong)
        given = corrector(step, SIGMAS[step], x, denoised, computed=step != 1)
        assert (given is denoised) == (step < 2)
