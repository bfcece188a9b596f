"""On a small model, each of diffusers' caches skips what its authors say, and nothing with its off setting."""

from itertools import pairwise

import pytest
import torch
from benchmark.tiny_wan import LAYERS, STEPS, assert_reused, assert_whole_steps_are_plain, near, run, way

from research import demo_model
from research.benchmark import diffusers_caches
from research.benchmark.diffusers_caches import (
    METHODS,
    fastercache,
    first_block_cache,
    magcache,
    pab,
    seacache,
    taylorseer,
)
from research.benchmark.guidance import plain, plain_in_two_calls, plain_unconditional_first

ALL = list(range(STEPS))


@pytest.fixture(autouse=True)
def ratios(monkeypatch):
    """MagCache's, as if calibrated on the small model: every residual is 2 % shorter than the one before."""
    monkeypatch.setattr(diffusers_caches, "magnitude_ratios", lambda bench, case: (1.0,) + (0.98,) * (case.steps - 1))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_off_position_is_its_baseline_bit_for_bit(method):
    baseline, off = run(method.baseline or plain), run(method.attach, method.off)
    assert all(map(torch.equal, off.velocities, baseline.velocities))
    assert off.ran == baseline.ran


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_boldest_setting_does_less(method):
    assert run(method.attach, list(method.settings.values())[-1]).ran.total() < run(plain).ran.total()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("PAB", (2, 6)),
        ("FasterCache", (3, 2)),
        ("FirstBlockCache", 0.3),
        ("TaylorSeer order 1", (3, 1, False)),
        ("TaylorSeer order 2", (3, 2, False)),
        ("TaylorSeer Lite order 1", (3, 1, True)),
        ("MagCache (diffusers)", (0.06, 3)),
        ("SeaCache", (1e9, 2)),
    ],
)
def test_a_step_that_is_computed_is_exact(name, setting):
    (method,) = (method for method in METHODS if method.name == name)
    assert_whole_steps_are_plain(run(method.attach, setting), run(method.baseline or plain))


@pytest.mark.parametrize("baseline", [plain_in_two_calls, plain_unconditional_first])
def test_a_baseline_is_the_plain_model_but_for_rounding(baseline):
    for mine, other in zip(run(baseline).velocities, run(plain).velocities, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("attach", "setting"),
    [
        (pab, (2, 6)),
        (first_block_cache, 0.3),
        (taylorseer, (3, 1, False)),
        (taylorseer, (3, 2, False)),
        (taylorseer, (3, 1, True)),
        (magcache, (0.06, 3)),
        (seacache, (1e9, 2)),
    ],
)
def test_the_unconditional_branch_never_sees_the_conditional(attach, setting):
    one = run(attach, setting)
    other = run(attach, setting, prompt="square many blue fast left stripes")
    assert one.ran.total() < run(plain).ran.total()
    assert not torch.equal(one.outputs(0), other.outputs(0))
    assert torch.equal(one.outputs(1), other.outputs(1))


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_the_clock_takes_the_shift_back(shift):
    clock = diffusers_caches.Clock(shift)
    shown = []
    for step, sigma in enumerate(demo_model.sigmas(30, shift).tolist()[:-1]):
        with clock.around(step, sigma):
            shown.append(clock())
    assert shown == [1000 - int(step * 1000 / 30) for step in range(30)]


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_pab_computes_attention_at_multiples_of_its_range_and_everywhere_outside_its_timesteps(shift):
    # With 14 steps, timesteps 786 (step 3) to 143 (step 12) are between 800 and 100.
    seen = run(pab, (2, 6), steps=14, shift=shift)
    assert seen.steps_of("attn1") == [0, 1, 2, 4, 6, 8, 10, 12, 13]
    assert seen.steps_of("attn2") == [0, 1, 2, 6, 12, 13]
    assert seen.steps_of("ffn") == seen.steps_of("block") == list(range(14))


@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_fastercache_leaves_the_unconditional_half_out_and_then_every_other_self_attention(shift):
    # With 14 steps, step 6 is the first below timestep 641; every fifth step is computed in full.
    calls = [call for calls in run(fastercache, (5, 2), steps=14, shift=shift).calls for call in calls]
    assert len(calls) == 14
    halves = [6, 7, 8, 9, 11, 12, 13]
    for part in ("block", "attn2", "ffn"):
        assert [call.ran[part] for call in calls] == [LAYERS * (1 if step in halves else 2) for step in range(14)]
    without = {7, 9, 11, 13}
    assert [step for step, call in enumerate(calls) if call.ran["attn1"] == 0] == sorted(without)


def test_fastercache_guesses_the_unconditional_half_from_the_last_difference_with_its_low_frequencies_raised():
    # Step 6 is the first half call and computes all attention; 572 is below 901 and not below 301.
    before, now = (run(fastercache, (5, 2), steps=14).calls[step][0].output for step in (5, 6))
    (conditional,) = now[1:]
    torch.testing.assert_close(conditional, run(plain, steps=14).outputs(0)[6])
    spectrum = torch.fft.fft2(before[0] - before[1])
    rows, columns = torch.meshgrid(*2 * [torch.fft.fftfreq(8) * 8], indexing="ij")
    low = rows**2 + columns**2 <= (8 // 5) ** 2
    difference = torch.fft.ifft2(spectrum * torch.where(low, 1.1, 1.0)).real
    torch.testing.assert_close(now[0], conditional + difference)


@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_first_block_cache_skips_the_rest_where_the_first_block_changed_less_than_the_threshold(row):
    calls = run(first_block_cache, 0.3).branch(row)
    skipped = near(calls, 0.3)
    assert 0 < len(skipped) < STEPS - 1
    assert [call.ran["block"] for call in calls] == [1 if step in skipped else LAYERS for step in range(STEPS)]
    assert_reused(calls, skipped, since="first")


@pytest.mark.parametrize(
    ("interval", "computed"), [(2, [0, 1, 2, 4, 6, 8, 10, 11]), (4, [0, 1, 2, 4, 8, 10, 11]), (1, ALL)]
)
def test_taylorseer_computes_three_steps_then_by_its_interval_and_the_last_two(interval, computed):
    seen = run(taylorseer, (interval, 1, False))
    for part in ("attn1", "attn2", "ffn"):
        assert seen.steps_of(part) == computed
    assert seen.steps_of("block") == ALL  # the rest of a block is not forecast
    assert run(taylorseer, (interval, 1, True)).steps_of("block") == computed


@pytest.mark.parametrize("order", [1, 2])
def test_taylorseer_continues_the_series_of_what_was_computed(order):
    said = run(taylorseer, (3, order, True)).outputs(1)
    slope = (said[4] - said[2]) / 2
    before = said[2] - said[1]
    bend = (slope - before) / 2 if order == 2 else torch.zeros_like(slope)
    for step in (5, 6):
        ahead = step - 4
        torch.testing.assert_close(said[step], said[4] + slope * ahead + bend * ahead**2 / 2)


@pytest.mark.parametrize(
    ("setting", "computed"),
    [
        # Errors add up as 0.02, 0.06, 0.118; a fifth of the steps is always computed.
        ((0.01, 3), ALL),
        ((0.03, 3), [0, 1, 3, 5, 7, 9, 11]),
        ((0.07, 3), [0, 1, 4, 7, 10]),
        ((0.07, 1), [0, 1, 3, 5, 7, 9, 11]),
        ((9.0, 4), [0, 1, 6, 11]),
    ],
)
def test_magcache_skips_until_the_error_or_the_row_is_full(setting, computed):
    seen = run(magcache, setting)
    assert seen.steps_of("block") == computed
    for row in (0, 1):
        assert_reused(seen.branch(row), sorted(set(ALL) - set(computed)), since="entered")


@pytest.mark.parametrize(
    ("setting", "computed"),
    [((0.0, 2), ALL), ((1e9, 2), [0, 3, 6, 9, 11]), ((1e9, 0), [0, 11])],
)
def test_seacache_computes_the_ends_and_never_skips_more_in_a_row_than_allowed(setting, computed):
    assert run(seacache, setting).steps_of("block") == computed


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_seacache_skips_while_the_filtered_change_of_its_input_adds_up_to_less_than_the_threshold(threshold):
    computed, change = [0], 0.0
    for step, (before, now) in enumerate(pairwise(filtered(x[0], sigma) for x, sigma in way(STEPS)), start=1):
        change += ((now - before).abs().mean() / before.abs().mean()).item()
        if change >= threshold or step == STEPS - 1:
            computed.append(step)
            change = 0.0
    assert 2 < len(computed) < STEPS
    assert run(seacache, (threshold, 0)).steps_of("block") == computed


def filtered(x, sigma):
    """A Wiener filter applied to a signal whose power falls as frequency ** -3, along time, height and width.

    arXiv 2602.18993: the response of each axis at this noise level, their product at mean 1.
    """
    sigma, gain = min(sigma, 1 - 1e-6), torch.ones(())
    for size in x.shape[1:]:
        power = 1 / (torch.fft.fftfreq(size).abs() ** 3 + 1e-16)
        gain = gain[..., None] * (1 - sigma) * power / ((1 - sigma) ** 2 * power + sigma**2)
    return torch.fft.ifftn(torch.fft.fftn(x, dim=(1, 2, 3)) * gain / gain.mean(), dim=(1, 2, 3)).real
