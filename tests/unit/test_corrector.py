"""A computed step repairs what the skipped steps before it got wrong."""

from itertools import pairwise

import pytest
import torch
from toys import heun

from adacache_core.correct import corrector as correct
from adacache_core.correct.corrector import Change, Corrector
from adacache_core.correct.sampler import LinearStep, Sampler, euler, linear_steps_of
from adacache_core.decide.base import Course
from adacache_core.decide.target import TargetController
from adacache_core.reuse.output import Output

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


def followed(velocity, corrected=True, computed=COMPUTED, sigmas=SIGMAS, sampler=euler, slope=None):
    """A run whose skipped steps hold the last velocity, or add some of a slope; the latent before every step, and the
    end."""
    corrector = Corrector(sigmas, linear_steps_of(sampler(sigmas), sigmas))
    latents, held, last = [], None, 0

    def model(x, sigma):
        nonlocal held, last
        step = len(latents)
        latents.append(x)
        if step not in computed:
            ahead = 0.7 * (step - last)
            denoised = x - sigma * (held if slope is None else held + ahead * slope)
            return corrector.skipped(step, denoised, ahead) if corrected else denoised
        before, held, last = held, velocity(x, step), step
        change = None if before is None else Change(slope, held - before)
        return corrector.computed(step, x - sigma * held, change) if corrected else x - sigma * held

    end = sampler(sigmas)(model, torch.ones(2, 3, dtype=torch.float64))
    return torch.stack([*latents, end])


def straight(x, step):
    """A velocity that changes by as much every step, whatever x is: the straight line between is the truth."""
    return torch.tensor([1.0, -2.0, 0.5]) + step * torch.tensor([0.3, 0.1, -0.2])


def curved(x, step):
    return torch.sin(0.4 * step + x) + 0.05 * step**2


WAYS = [(euler, SIGMAS), (euler, UNEVEN), (multistep, SIGMAS), (multistep, UNEVEN)]


@pytest.mark.parametrize("slope", [None, torch.tensor([0.2, 0.4, -0.3])])
@pytest.mark.parametrize(("sampler", "sigmas"), WAYS)
def test_if_the_velocity_changes_in_a_straight_line_everything_is_repaired(sampler, sigmas, slope, monkeypatch):
    monkeypatch.setattr(correct, "SIGNAL_FRACTION", 1.0)  # this velocity knows no x, so it finds no noise in it
    plain = followed(straight, False, range(STEPS), sigmas, sampler)
    settings = {"sigmas": sigmas, "sampler": sampler, "slope": slope}
    without, corrected = (followed(straight, on, **settings) for on in (False, True))
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


def test_a_skipped_step_is_left_as_it_is():
    without = followed(curved, corrected=False)
    assert torch.equal(followed(curved)[:4], without[:4])
    assert not torch.equal(followed(curved)[4], without[4])  # step 3 was computed


def test_over_too_long_a_gap_nothing_is_repaired():
    apart = {0, 4, 8, 11}
    assert torch.equal(followed(curved, computed=apart)[:11], followed(curved, False, apart)[:11])


def test_the_linear_steps_of_samplers_are_found():
    keeps = [following / sigma for sigma, following in pairwise(SIGMAS)]
    for linear, keep in zip(linear_steps_of(euler(SIGMAS), SIGMAS), keeps, strict=True):
        assert linear.keep == pytest.approx(keep, abs=1e-6)
        assert linear.weights == pytest.approx((1 - keep,), abs=1e-6)
    first, *middle, last = linear_steps_of(multistep(SIGMAS), SIGMAS)
    assert len(first.weights) == len(last.weights) == 1
    for linear, keep in zip(middle, keeps[1:-1], strict=True):
        assert linear.weights == pytest.approx((1.5 * (1 - keep), -0.5 * (1 - keep)), abs=1e-6)


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
    assert linear_steps_of(sampler(SIGMAS), SIGMAS) is None


def test_nor_one_of_few_steps_that_keeps_nothing():
    assert linear_steps_of(of_the_video_alone(SIGMAS[-4:]), SIGMAS[-4:]) is None


def test_an_evaluation_may_lie_a_little_beside_its_level():
    assert linear_steps_of(euler([1.0005 * sigma for sigma in SIGMAS]), SIGMAS) is not None


def test_half_of_what_is_wrong_in_the_latent_is_taken_for_signal():
    """A skipped step of Euler was given a denoised latent of 0.7 where there was none: the next is off by its part."""
    corrector = Corrector(SIGMAS, linear_steps_of(euler(SIGMAS), SIGMAS))
    nothing = torch.zeros(3)
    corrector.computed(0, nothing, None)
    corrector.skipped(1, nothing + 0.7, 1.0)
    slope = nothing - 0.7 / SIGMAS[1]
    given = corrector.computed(2, nothing, Change(slope, nothing))
    off = -0.7 * (1 - SIGMAS[2] / SIGMAS[1])
    keep = SIGMAS[3] / SIGMAS[2]
    torch.testing.assert_close(corrector.latent_error, nothing + off, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(given, nothing + 0.5 * off + keep * off / (1 - keep), atol=1e-5, rtol=1e-4)


def output(flow=True, sigmas=SIGMAS):
    known = Sampler(sigmas, [LinearStep(0.9, (0.1,))] * STEPS)
    return Output(TargetController(Course.along([min(sigma, 1.0) for sigma in sigmas]), 2.0), known, flow=flow)


# Of evaluations, the last of which is not the one that is due: step, level, number of values.
UNEXPECTED = {
    "a level twice": [(0, 0, 3), (1, 1, 3), (1, 1, 3)],
    "between levels": [(0, 0, 3), (0, 0.5, 3)],
    "a step is left out": [(0, 0, 3), (2, 2, 3)],
    "another size": [(0, 0, 3), (1, 1, 5)],
}


@pytest.mark.parametrize("evaluations", UNEXPECTED.values(), ids=UNEXPECTED)
def test_a_run_that_leaves_what_was_found_is_left_alone(evaluations):
    made = output()
    for step, level, size in evaluations:
        assert made.corrects
        made.found(step, 1 - level / STEPS, torch.ones(size), torch.zeros(size))
    assert not made.corrects
    x, denoised = torch.ones(size), torch.zeros(size)
    made.forecast(step + 1, SIGMAS[step + 1], x)
    assert not made.corrected
    assert made.found(step + 2, SIGMAS[step + 2], x, denoised)[0] is denoised


def test_one_that_does_not_is_corrected():
    made = output()
    for step in range(3):
        x, denoised = torch.full((3,), SIGMAS[step]), torch.full((3,), 0.1 * step)
        if step == 1:
            made.forecast(step, SIGMAS[step], x)
        else:
            given, _ = made.found(step, SIGMAS[step], x, denoised)
            assert (given is denoised) == (step == 0)
        assert made.corrected == (step == 2)
    assert made.corrects


def test_a_step_at_which_the_output_jumps_is_not_corrected():
    made = Output(
        TargetController(Course.along(SIGMAS), 2.0),
        Sampler(SIGMAS, [LinearStep(0.9, (0.1,))] * STEPS),
        changing={2: "it jumps"},
    )
    x, denoised = torch.ones(3), torch.zeros(3)
    made.found(0, SIGMAS[0], x, denoised)
    made.forecast(1, SIGMAS[1], x)
    assert made.found(2, SIGMAS[2], x, denoised + 1)[0].equal(denoised + 1)
    made.forecast(3, SIGMAS[3], x)
    assert not made.found(4, SIGMAS[4], x, denoised + 2)[0].equal(denoised + 2)
    assert made.corrected


SCALES = [20.0, 9.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0]


@pytest.mark.parametrize("skipped", [{2}, {2, 3}, {1, 4}])
def test_latents_of_another_kind_are_corrected_as_those_of_flow_models(skipped):
    """The same run twice: of a flow model, and of one whose latents are video + sigma noise."""

    def run(flow):
        sigmas = [sigma / (1 + sigma) for sigma in SCALES] if flow else SCALES
        known = Sampler(sigmas, linear_steps_of(euler(sigmas), sigmas))
        levels = [sigma / (1 + sigma) for sigma in SCALES]
        made, step = Output(TargetController(Course.along(levels), 2.0), known, flow=flow), 0

        def model(x, sigma):
            nonlocal step
            scaled = x if flow else x / (1 + sigma)
            denoised = torch.sin(step + scaled) + 0.3 * scaled
            answer = made.forecast(step, sigma, x) if step in skipped else made.found(step, sigma, x, denoised)[0]
            step += 1
            return answer

        start = torch.linspace(-1, 1, 5, dtype=torch.float64)
        end = euler(sigmas)(model, start if flow else start * (1 + SCALES[0]))
        assert made.corrects
        return end

    torch.testing.assert_close(run(True), run(False), rtol=1e-5, atol=1e-5)
