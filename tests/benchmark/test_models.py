"""On CogVideoX, Latte and DiT with two layers each, AdaCache works, and holds and costs what the page says."""

import pytest
import torch

from research.benchmark.cost import memory
from research.benchmark.models import REAL, fit, measure
from research.benchmark.random_models import COMPUTED, REUSED, cogvideox, dit, latte, wan

MODELS = {
    "CogVideoX": lambda: cogvideox(layers=2, frames=2, height=8, width=8),
    "Latte": lambda: latte(layers=2, frames=2, size=8),
    "DiT": lambda: dit(layers=2, size=8),
    "Wan": lambda: wan(layers=2, heads=1, frames=2, height=8, width=8, text=4),
}


@pytest.fixture(params=MODELS)
def model(request):
    with torch.no_grad():
        yield MODELS[request.param]()


def test_switched_off_the_output_is_the_plain_one_bit_for_bit(model):
    assert fit(model)["off_is_plain"]


def test_a_computed_call_runs_every_block_once_and_a_reused_one_none(model):
    found = fit(model)
    assert (found["blocks_computed"], found["blocks_reused"]) == (len(model.all_blocks), 0)


def test_a_reused_call_on_an_unchanged_input_gives_the_plain_output_up_to_rounding(model):
    """One residual for all blocks is enough, even if spatial and temporal blocks alternate or blocks carry text."""
    plain = model()
    with model.cached() as run:
        outputs = [model.evaluate(run, step) for step in range(REUSED + 1)]
    assert torch.equal(outputs[COMPUTED], plain)
    assert [record.state for record in run.report.evaluations][COMPUTED:] == ["computed", "reused"]
    torch.testing.assert_close(outputs[REUSED], plain, rtol=1e-5, atol=1e-5)


def test_one_residual_and_a_quarter_of_one_are_held_whatever_the_depth(model):
    assert memory(model)["held_residuals"] == pytest.approx(1.25, abs=0.01)


def test_at_no_time_is_more_than_a_residual_and_two_probes_alive_beyond_the_plain_call(model):
    """Only these are large: the copy of the stack's input, the probe that is held and the new probe."""
    assert 1 < memory(model)["peak_residuals"] <= 1.6


def test_motion_is_missed_where_frames_are_samples_or_there_are_none():
    with torch.no_grad():
        missing = {name: bool(fit(build())["moreg"]) for name, build in MODELS.items()}
    assert missing == {"CogVideoX": False, "Latte": True, "DiT": True, "Wan": False}


def test_a_row_has_the_seconds_of_all_three_kinds_of_calls(model):
    row = measure(model, repeats=1)
    assert all(row[f"{kind}_ms"] > 0 for kind in ("plain", "computed", "reused"))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # tokens x width x blocks x 2 residuals x 2 bytes
        ("CogVideoX", 13 * 1350 * 1920 * 30 * 4),
        ("Latte", 16 * 1024 * 1152 * 56 * 4),
        ("DiT", 256 * 1152 * 28 * 4),
    ],
)
def test_per_block_caching_holds_two_residuals_of_every_block(name, published):
    assert REAL[name].published_bytes == published
    assert REAL[name].published_bytes == 2 * REAL[name].blocks * REAL[name].residual_bytes
