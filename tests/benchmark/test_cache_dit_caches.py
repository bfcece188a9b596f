"""On a small model, cache-dit's DBCache skips what its authors say, and nothing with its off setting."""

import numpy as np
import pytest
import torch
from benchmark.tiny_wan import LAYERS, STEPS, assert_reused, assert_whole_steps_are_plain, near, run

from research.benchmark.cache_dit_caches import CALIBRATORS, METHODS, dbcache
from research.benchmark.diffusers_caches import first_block_cache
from research.benchmark.guidance import plain_in_two_calls

WARMUP = 8
ANY = 1e9  # a threshold that is larger than every change


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_off_position_is_its_baseline_bit_for_bit(method):
    baseline, off = run(method.baseline), run(method.attach, method.off)
    assert all(map(torch.equal, off.velocities, baseline.velocities))
    assert off.ran == baseline.ran


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_a_step_that_is_computed_is_exact(calibrator):
    assert_whole_steps_are_plain(run(dbcache, (0.2, 3, calibrator)), run(plain_in_two_calls))


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_after_the_warm_up_only_the_first_block_runs_where_no_change_is_too_large(calibrator, row):
    ran = [call.ran["block"] for call in run(dbcache, (ANY, WARMUP, calibrator)).branch(row)]
    assert ran == [LAYERS] * WARMUP + [1] * (STEPS - WARMUP)


@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_the_rest_is_skipped_where_the_first_block_changed_less_than_the_threshold(row):
    calls = run(dbcache, (0.2, 3, "")).branch(row)
    skipped = near(calls, 0.2, warmup=3)
    assert 0 < len(skipped) < STEPS - 3
    assert [call.ran["block"] for call in calls] == [1 if step in skipped else LAYERS for step in range(STEPS)]
    assert_reused(calls, skipped, since="first")


@pytest.mark.parametrize("threshold", [0.1, 0.3])
def test_with_one_step_of_warm_up_it_is_first_block_cache_bit_for_bit(threshold):
    mine, other = run(dbcache, (threshold, 1, "")), run(first_block_cache, threshold)
    assert mine.ran["block"] < run(plain_in_two_calls).ran["block"]
    assert all(map(torch.equal, mine.velocities, other.velocities))


def added_by_the_rest(calibrator, row):
    """Residuals (tokens, width) at every step; those before WARMUP are computed, the others forecast."""
    calls = run(dbcache, (ANY, WARMUP, calibrator)).branch(row)
    return [(call.left - call.first)[0] for call in calls]


@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_the_taylor_calibrator_continues_what_the_rest_added(row):
    added = added_by_the_rest("TaylorSeer", row)
    slope = added[WARMUP - 1] - added[WARMUP - 2]
    for step in range(WARMUP, STEPS):
        torch.testing.assert_close(added[step], added[WARMUP - 1] + slope * (step - WARMUP + 1))


@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_the_foca_calibrator_goes_by_the_mean_of_the_last_computed_slope_and_the_last_slope(row):
    """arXiv 2508.16211; cache-dit forecasts at most three steps ahead, then starts again."""
    added = added_by_the_rest("FoCa", row)
    anchor = added[WARMUP - 1]
    slope = anchor - added[WARMUP - 2]
    for step in range(WARMUP, STEPS):
        ahead = step - WARMUP + 1
        forecast = anchor + min(ahead, 9 / ahead) / 2 * (slope + added[step - 1] - added[step - 2])
        torch.testing.assert_close(added[step], forecast)


@pytest.mark.parametrize("row", [0, 1], ids=["conditional", "unconditional"])
def test_the_dmd_calibrator_applies_the_matrix_that_led_through_the_last_six_steps(row):
    added = [each.double().flatten().numpy() for each in added_by_the_rest("DMD", row)]
    seen = np.stack(added[WARMUP - 6 : WARMUP], axis=1)
    onward = np.linalg.pinv(seen[:, :-1], rcond=1e-4)
    forecast = seen[:, -1]
    for step in range(WARMUP, STEPS):
        forecast = seen[:, 1:] @ (onward @ forecast)
        assert added[step] == pytest.approx(forecast, rel=1e-2, abs=1e-2 * np.abs(forecast).max())
        assert added[step] != pytest.approx(added[WARMUP - 1], rel=1e-2, abs=1e-2 * np.abs(forecast).max())


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_the_unconditional_branch_never_sees_the_conditional(calibrator):
    one = run(dbcache, (0.2, 3, calibrator))
    other = run(dbcache, (0.2, 3, calibrator), prompt="square many blue fast left stripes")
    assert one.ran["block"] < run(plain_in_two_calls).ran["block"]
    assert not torch.equal(one.outputs(0), other.outputs(0))
    assert torch.equal(one.outputs(1), other.outputs(1))


def test_no_other_model_knows_of_it():
    before = run(plain_in_two_calls).velocities
    run(dbcache, (ANY, WARMUP, "TaylorSeer"))
    run.cache_clear()
    assert all(map(torch.equal, run(plain_in_two_calls).velocities, before))
