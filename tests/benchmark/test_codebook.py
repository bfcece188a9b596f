"""The 100-step table as arithmetic."""

import pytest

from adacache_core import FAST_100, CacheConfig
from research.benchmark.codebook import codebook_100, computed_steps, drifting
from research.simulate import simulate


@pytest.mark.parametrize("change", [0.02, 0.08, 0.3])
def test_a_drifting_probe_changes_as_much_per_step_over_any_distance(change):
    report = simulate(drifting(change, 100), CacheConfig(FAST_100, probe_stride=1))
    regular = [record.metric for record in report.evaluations[:-2] if record.metric is not None]
    assert regular == pytest.approx([change] * len(regular), rel=1e-5)


def test_each_row_computes_the_first_steps_every_rate_th_and_the_last_two():
    for row in codebook_100()["fast, 100 steps"]:
        expected = {0, *range(1, 100, row["rate"]), 98, 99}
        assert row["computed"] == len(expected)


def test_the_bounds_belong_to_the_row_above_them():
    assert computed_steps(FAST_100, 0.029) == computed_steps(FAST_100, 0.01)
    assert computed_steps(FAST_100, 0.031) == computed_steps(FAST_100, 0.049) != computed_steps(FAST_100, 0.029)
