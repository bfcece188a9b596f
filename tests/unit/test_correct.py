"""What reused steps got wrong is paid back at the next computed one."""

from itertools import pairwise

import pytest
import torch
from toys import heun

from adacache_core import correct
from adacache_core.correct import Corrector
from adacache_core.sampler import Move, euler, moves_of

STEPS = 12
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
UNEVEN = [(1 - step / STEPS) ** 2 for step in range(STEPS + 1)]
COMPUTED = {0, 3, 4, 7, 10, 11}


def multistep(sigmas, remembered=0.5):
    """Euler with a part of what the video changed since the step before added to it."""

    def sample(model, x):
        before = None
        for sigma, following in pairwise(sigmas):
            video = model(x, sigma)
            ahead = video if before is None or following == 0 else video + remembered * (video - before)
            x, before = following / sigma * x + (1 - following / sigma) * ahead, video
        return x

    return sample


def followed(velocity, corrected=True, computed=COMPUTED, sigmas=SIGMAS, sampler=euler):
    """A run that holds the velocity of the last computed step; the latent before every step, and the end."""
    corrector = Corrector(sigmas, moves_of(sampler(sigmas), sigmas))
    latents, held = [], []

    def model(x, sigma):
        step = len(latents)
        latents.append(x)
        if step in computed:
            held.append(velocity(x, step))
        video = x - sigma * held[-1]
        return corrector(step, sigma, x, video, step in computed) if corrected else video

    end = sampler(sigmas)(model, torch.ones(2, 3, dtype=torch.float64))
    return torch.stack([*latents, end])


def straight(x, step):
    """A velocity that changes by as much every step, whatever x is: the straight line between is the truth."""
    return torch.tensor([1.0, -2.0, 0.5]) + step * torch.tensor([0.3, 0.1, -0.2])


def curved(x, step):
    return torch.sin(0.4 * step + x) + 0.05 * step**2


WAYS = [(euler, SIGMAS), (euler, UNEVEN), (multistep, SIGMAS), (multistep, UNEVEN)]


@pytest.mark.parametrize(("sampler", "sigmas"), WAYS)
def test_if_the_velocity_changes_in_a_straight_line_everything_is_paid_back(sampler, sigmas, monkeypatch):
    monkeypatch.setattr(correct, "SEEN", 1.0)  # this velocity knows no x, so neither does it know a noise in it
    plain = followed(straight, False, range(STEPS), sigmas, sampler)
    without, corrected = (followed(straight, on, sigmas=sigmas, sampler=sampler) for on in (False, True))
    after_computed = [step + 1 for step in COMPUTED]
    assert torch.allclose(corrected[after_computed], plain[after_computed], atol=1e-5)
    assert not torch.allclose(without[-1], plain[-1], atol=0.1)


@pytest.mark.parametrize("sampler", [euler, multistep])
def test_a_curved_path_ends_nearer_to_the_plain_one_than_without(sampler):
    plain = followed(curved, False, range(STEPS), sampler=sampler)[-1]
    without, corrected = (followed(curved, on, sampler=sampler)[-1] for on in (False, True))
    assert (corrected - plain).norm() < (without - plain).norm() / 2


@pytest.mark.parametrize("sampler", [euler, multistep])
def test_when_every_step_is_computed_nothing_is_changed(sampler):
    on, off = (followed(curved, on, range(STEPS), sampler=sampler) for on in (True, False))
    assert torch.equal(on, off)


def test_a_reused_step_is_left_as_it_is():
    without = followed(curved, corrected=False)
    assert torch.equal(followed(curved)[:4], without[:4])
    assert not torch.equal(followed(curved)[4], without[4])  # step 3 was computed


def test_over_too_long_a_way_nothing_is_paid_back():
    apart = {0, 4, 8, 11}
    assert torch.equal(followed(curved, computed=apart)[:11], followed(curved, False, apart)[:11])


def test_the_moves_of_samplers_are_found():
    keeps = [following / sigma for sigma, following in pairwise(SIGMAS)]
    for move, keep in zip(moves_of(euler(SIGMAS), SIGMAS), keeps, strict=True):
        assert move.keep == pytest.approx(keep, abs=1e-6)
        assert move.weights == pytest.approx((1 - keep,), abs=1e-6)
    first, *middle, last = moves_of(multistep(SIGMAS), SIGMAS)
    assert len(first.weights) == len(last.weights) == 1
    for move, keep in zip(middle, keeps[1:-1], strict=True):
        assert move.weights == pytest.approx((1.5 * (1 - keep), -0.5 * (1 - keep)), abs=1e-6)


def noisy(sigmas):
    return lambda model, x: euler(sigmas)(model, x) + torch.randn_like(x)


def between_levels(sigmas):
    return euler([sigma**1.1 for sigma in sigmas])


def one_step_less(sigmas):
    return euler([*sigmas[:-2], sigmas[-1]])


def one_step_more(sigmas):
    return lambda model, x: euler(sigmas)(model, x) + 0 * model(x, sigmas[-2])


def of_all_videos(sigmas):
    def sample(model, x):
        mean = torch.zeros_like(x)
        for sigma, following in pairwise(sigmas):
            mean = (mean + model(x, sigma)) / 2
            x = following / sigma * x + (1 - following / sigma) * mean
        return x

    return sample


def of_the_video_before(sigmas):
    return multistep(sigmas, remembered=-1.0)


def louder_and_louder(sigmas):
    return multistep(sigmas, remembered=-0.6)


def a_little_too_loud(sigmas):
    """What undoes a correction grows to 1.22 ** 10 = 7.4 times it."""
    return multistep(sigmas, remembered=-0.55)


def beside_the_levels(sigmas):
    return euler([1.01 * sigma for sigma in sigmas])


def of_the_video_alone(sigmas):
    """Nothing of the latent before is left."""

    def sample(model, x):
        for sigma in sigmas[:-1]:
            x = model(x, sigma)
        return x

    return sample


def deaf_at_one_step(sigmas):
    def sample(model, x):
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            video = model(x, sigma)
            x = following / sigma * x + (step != 0) * (1 - following / sigma) * video
        return x

    return sample


UNCORRECTED = (
    *(heun, noisy, between_levels, beside_the_levels, one_step_less, one_step_more, of_all_videos),
    *(of_the_video_before, of_the_video_alone, louder_and_louder, a_little_too_loud, deaf_at_one_step),
)


@pytest.mark.parametrize("sampler", UNCORRECTED)
def test_a_sampler_that_cannot_be_corrected_is_known(sampler):
    assert moves_of(sampler(SIGMAS), SIGMAS) is None


def test_nor_one_of_few_steps_that_keeps_nothing():
    assert moves_of(of_the_video_alone(SIGMAS[-4:]), SIGMAS[-4:]) is None


def test_an_evaluation_may_lie_a_little_beside_its_level():
    assert moves_of(euler([1.0005 * sigma for sigma in SIGMAS]), SIGMAS) is not None


def test_half_of_what_is_wrong_in_the_latent_is_taken_for_video():
    """One reused step of Euler found a video of 0.7 where there was none: the latent is off by its part of that."""
    corrector = Corrector(SIGMAS, moves_of(euler(SIGMAS), SIGMAS))
    for step, (found, computed) in enumerate([(0.0, True), (0.7, False), (0.0, True)]):
        given = corrector(step, SIGMAS[step], torch.full((3,), SIGMAS[step]), torch.full((3,), found), computed)
    off = -0.7 * (1 - SIGMAS[2] / SIGMAS[1])
    keep = SIGMAS[3] / SIGMAS[2]
    torch.testing.assert_close(given, torch.full((3,), 0.5 * off + keep * off / (1 - keep)), atol=1e-5, rtol=1e-4)


# Of evaluations, the last of which is not the one that is due: step, level, number of values.
UNEXPECTED = {
    "a level twice": [(0, 0, 3), (1, 1, 3), (1, 1, 3)],
    "between levels": [(0, 0, 3), (0, 0.5, 3)],
    "a step is left out": [(0, 0, 3), (2, 2, 3)],
    "another size": [(0, 0, 3), (1, 1, 5)],
}


@pytest.mark.parametrize("evaluations", UNEXPECTED.values(), ids=UNEXPECTED)
def test_a_run_that_leaves_what_was_found_is_left_alone(evaluations):
    corrector = Corrector(SIGMAS, [Move(0.9, (0.1,))] * STEPS)
    for step, level, size in evaluations:
        corrector(step, 1 - level / STEPS, torch.ones(size), torch.zeros(size), computed=True)
    for later, computed in ((step + 1, False), (step + 2, True)):
        x, denoised = torch.ones(size), torch.zeros(size)
        assert corrector(later, SIGMAS[later], x, denoised, computed) is denoised


def test_one_that_does_not_is_corrected():
    corrector = Corrector(SIGMAS, moves_of(euler(SIGMAS), SIGMAS))
    for step, wrong in enumerate((0.0, 0.7, 0.0)):
        x, denoised = torch.full((3,), SIGMAS[step]), torch.full((3,), wrong)
        given = corrector(step, SIGMAS[step], x, denoised, computed=step != 1)
        assert (given is denoised) == (step < 2)
