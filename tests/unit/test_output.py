"""Forecasts of what the sampler is given, on velocities that are known."""

import math

import pytest
import torch

from adacache_core.correct.sampler import Sampler
from adacache_core.decide.base import Course
from adacache_core.decide.fixed import Fixed
from adacache_core.decide.levels import flow_level, log_snr
from adacache_core.decide.target import Target
from adacache_core.reuse.forecast import FIRST_GAIN, Forecast, distance
from adacache_core.reuse.output import Output
from adacache_core.schedule import Schedule

SHAPE = (1, 4, 3, 5, 5)
STEPS = 30
LEVELS = tuple(3 * t / (1 + 2 * t) for t in (1 - step / STEPS for step in range(STEPS + 1)))


def tensor(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output(schedule=None, always=None, **settings):
    noisy = Sampler(LEVELS, draws_noise=settings.pop("fresh_noise", False))
    policy = Target(2.0) if schedule is None else Fixed(schedule)
    return Output(policy.controller(Course.along(LEVELS, always)), noisy, **settings)


def straight(place):
    """A velocity that goes on evenly in log-SNR."""
    return tensor(0) + 0.1 * place * tensor(1)


def feed(made, steps, velocity=straight):
    """Computes these steps; returns the errors of their forecasts."""
    errors = []
    for step in steps:
        level = LEVELS[step]
        x, v = tensor(100 + step), velocity(made.controller.log_snrs[step])
        errors.append(made.found(step, level, x, x - level * v)[1])
    return errors


def test_the_first_velocity_is_held():
    forecast = Forecast(0.0, tensor(0))
    assert forecast.at(1.0) is forecast.velocity


def test_the_second_is_believed_to_go_on_by_half():
    forecast = Forecast(0.0, straight(0.0)).after(1.0, straight(1.0))
    torch.testing.assert_close(forecast.at(2.0), straight(1.0 + FIRST_GAIN))


def test_what_came_true_is_believed():
    forecast = Forecast(0.0, straight(0.0)).after(1.0, straight(1.0)).after(2.5, straight(2.5))
    assert forecast.gain == pytest.approx(1.0)
    torch.testing.assert_close(forecast.at(4.0), straight(4.0))


def test_what_turned_round_is_held():
    forecast = Forecast(0.0, straight(0.0)).after(1.0, straight(1.0)).after(2.0, straight(0.5))
    assert forecast.gain == 0.0
    torch.testing.assert_close(forecast.at(3.0), straight(0.5))


def test_what_came_true_outside_of_the_mask_does_not_count():
    mask = torch.ones(1, 1, 1, 1, 5)
    mask[..., 0] = 0
    third = straight(2.0)
    third[..., 0] = straight(-8.0)[..., 0]  # turned round
    forecast = Forecast(0.0, straight(0.0)).after(1.0, straight(1.0), mask)
    assert forecast.after(2.0, third, mask).gain == pytest.approx(1.0)
    assert forecast.after(2.0, third).gain == 0.0
    assert forecast.after(2.0, third, 0 * mask).gain == 0.0  # nothing is made


def test_a_velocity_of_another_shape_starts_anew():
    forecast = Forecast(0.0, straight(0.0)).after(1.0, tensor(5, (1, 4, 2, 5, 5)))
    assert forecast.slope is None


def test_a_distance_is_relative_and_looks_only_where_the_mask_is():
    velocity, wrong = tensor(0), tensor(0)
    wrong[..., 0] += 1
    mask = torch.ones(1, 1, 1, 1, 5)
    mask[..., 0] = 0
    assert distance(velocity, 2 * velocity) == pytest.approx(1.0)
    assert distance(velocity, wrong) > 0.1
    assert distance(velocity, wrong, mask) == 0.0
    assert distance(velocity, wrong, 0 * mask) == 0.0  # nothing is made


def test_errors_of_what_goes_on_evenly_vanish():
    errors = feed(output(), (0, 1, 3, 6, 10))
    assert errors[0] is None
    assert errors[1] > 0.01
    assert errors[3] < 1e-5
    assert errors[4] < 1e-5


@pytest.mark.parametrize("flow", [True, False])
def test_the_video_that_is_forecast_is_the_one_that_the_model_would_have_found(flow):
    made = output(flow=flow)
    for step in (0, 1, 3, 6):
        level = LEVELS[step]
        sigma = level if flow else level / max(1 - level, 1e-4)
        x = tensor(100 + step)
        made.found(
            step, sigma, x, (x if flow else x / (1 + sigma)) - flow_level(sigma, flow) * straight(place(sigma, flow))
        )
    sigma = LEVELS[8] if flow else LEVELS[8] / (1 - LEVELS[8])
    x = tensor(200)
    expected = (x if flow else x / (1 + sigma)) - flow_level(sigma, flow) * straight(place(sigma, flow))
    torch.testing.assert_close(made.forecast(8, sigma, x), expected)


def place(sigma, flow):
    return log_snr(flow_level(sigma, flow))


def test_what_is_given_and_not_made_is_no_error():
    mask = torch.zeros(1, 1, 1, 1, 5)
    mask[..., :2] = 1
    made = output(mask=mask)
    jumps = iter(range(9))

    def elsewhere(place):
        velocity = straight(place)
        velocity[..., 2:] += next(jumps) * 10
        return velocity

    without = feed(output(), (0, 1, 3, 6))[1]
    assert feed(made, (0, 1, 3, 6), elsewhere)[1] == pytest.approx(without, rel=0.5)
    assert feed(output(), (0, 1, 3, 6), lambda place: elsewhere(place))[1] > 3 * without


def test_where_noise_is_drawn_the_video_goes_on_whatever_the_latent_is():
    made = output(fresh_noise=True)
    video = tensor(7)
    for step in (0, 1, 3):
        made.found(step, LEVELS[step], tensor(100 + step), video)
    torch.testing.assert_close(made.forecast(4, LEVELS[4], tensor(999)), video)


def test_noise_above_all_levels_is_taken_for_pure_noise():
    """As samplers have it that churn."""
    made = output()
    feed(made, (0,))
    x = tensor(9)
    made.found(1, 1.3, x, x - 1.3 * tensor(1))
    torch.testing.assert_close(made.forecast(2, 1.3, x), x - 1.3 * tensor(1))


def test_a_second_evaluation_of_a_step_teaches_nothing():
    made = output()
    feed(made, (0, 1, 2))
    before = made.state
    assert made.found(2, LEVELS[3], tensor(0), tensor(1))[1] is None
    assert made.state is before


def test_a_step_is_decided_once():
    made = output()
    feed(made, (0, 1, 2, 3))
    assert made.decide(4) is made.decide(4)


THIRDS = Schedule(tuple(step % 3 == 0 for step in range(STEPS)))


def test_a_schedule_is_followed_but_where_something_changes():
    made = output(THIRDS, {7: "a hook has a keyframe"})
    feed(made, (0,))
    reasons = {step: made.decide(step).reason for step in range(1, 12) if made.decide(step).compute}
    assert reasons == {3: "as planned", 6: "as planned", 7: "a hook has a keyframe", 9: "as planned"}


def test_a_schedule_of_another_number_of_steps_is_resampled():
    made = output(Schedule((True, True, False)))
    feed(made, (0,))
    assert [made.decide(step).compute for step in range(1, STEPS)] == [step < 20 for step in range(1, STEPS)]


def test_whether_anything_is_skipped_is_known_before_the_run():
    assert output(Schedule((True,) * STEPS)).controller.never_skips
    assert not output(THIRDS).controller.never_skips
    assert not output().controller.never_skips
    assert output(always=dict.fromkeys(range(STEPS), "so")).controller.never_skips


def test_before_anything_was_found_nothing_is_forecast():
    made = output(THIRDS)
    assert not made.fits(tensor(0))
    assert made.decide(1).compute
    assert made.decide(1).reason == "first step"


def test_a_forecast_fits_latents_of_its_shape():
    made = output()
    feed(made, (0,))
    assert made.fits(tensor(9))
    assert not made.fits(tensor(9, (1, 4, 3, 5, 6)))
    assert not made.fits(tensor(9, (2, 4, 3, 5, 5)))


@pytest.mark.parametrize("fresh_noise", [False, True])
def test_where_the_output_jumps_no_error_is_counted_and_the_forecast_begins_anew(fresh_noise):
    made = output(changing={6: "guidance changes"}, fresh_noise=fresh_noise)

    def jumping(place):
        return straight(place) + 100 * (place >= made.controller.log_snrs[6])

    errors = feed(made, (0, 1, 3, 6, 8), jumping)
    assert [error is None for error in errors] == [True, False, False, True, False]
    assert made.state.errors == 3
    made = output(changing={6: "guidance changes"}, fresh_noise=fresh_noise)
    feed(made, (0, 1, 3, 6), jumping)
    x, level = tensor(106), LEVELS[6]
    torch.testing.assert_close(made.forecast(6, level, x), x - level * jumping(made.controller.log_snrs[6]))


def test_a_jump_that_nobody_foresaw_is_an_error():
    made = output()
    errors = feed(made, (0, 1, 3, 6), lambda place: straight(place) + 100 * (place >= made.controller.log_snrs[6]))
    assert errors[3] > 0.9


def test_it_holds_two_latents():
    made = output()
    assert made.bytes_held == 0
    feed(made, (0, 1, 2, 5))
    assert made.bytes_held == 2 * 4 * math.prod(SHAPE)
