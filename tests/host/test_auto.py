"""Preset auto on the real host: it lands where it was asked to, and the laws hold for forecasts and corrections too."""

from __future__ import annotations

import pytest
import torch
from host.running import Witness, holding_no_new_tensor, row_of, sample
from host.tiny import KINDS

WAN = "Wan t2v"
STEPS = 20
AUTO = {"forecast": True, "correct": True}


@pytest.fixture(scope="module")
def auto(adacache):
    """`auto(tiny, target)` -> (MODEL, its attachment), as the node makes it with preset auto."""
    return lambda tiny, target=2.0, **changes: adacache(tiny.model, target=target, **(AUTO | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_it_lands_on_the_target_and_the_report_is_true(kind, tiny, auto):
    model, attachment = auto(tiny(kind))
    with Witness(tiny(kind)) as witness:
        video = sample(tiny(kind), witness.watched(model), steps=STEPS)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert row_of(report) == witness.row()
    assert report.counted_speedup == pytest.approx(2.0, rel=0.25)
    assert report.forecast
    assert any(record.corrected for record in report.evaluations)


def test_a_speedup_of_one_is_off(tiny, auto):
    model, attachment = auto(tiny(WAN), 1.0)
    assert torch.equal(sample(tiny(WAN), model, steps=STEPS), sample(tiny(WAN), steps=STEPS))
    assert attachment.finished[-1].report.cache_bytes_max == 0


def test_a_second_run_equals_the_first_and_nothing_is_held_between(tiny, auto):
    model, _ = auto(tiny(WAN))
    first = sample(tiny(WAN), model, steps=STEPS)
    with holding_no_new_tensor():
        again = sample(tiny(WAN), model, steps=STEPS)
        equal = torch.equal(first, again)
        del again
    assert equal


def test_a_target_out_of_reach_is_said(tiny, auto):
    model, attachment = auto(tiny(WAN), 4.4)
    sample(tiny(WAN), model, steps=9)
    report = attachment.finished[-1].report
    assert report.notes == ["4.4x cannot be reached in 9 steps: too many of them are always computed"]
    assert report.computed == 3


# Those that show how they use what they are given, and those that do otherwise or never forget it.
ALONG = ["euler", "ddim", "uni_pc", "uni_pc_bh2", "dpmpp_2m", "res_multistep", "gradient_estimation"]
OTHERWISE = ["heun", "dpm_2", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "ipndm", "deis", "lms"]


@pytest.mark.parametrize("name", [*ALONG, *OTHERWISE])
def test_only_samplers_that_it_brings_nearer_are_corrected(name, tiny, auto):
    with_it, attachment = auto(tiny(WAN))
    without, _ = auto(tiny(WAN), correct=False)
    videos = [sample(tiny(WAN), model, steps=STEPS, sampler_name=name) for model in (with_it, without)]
    corrected = any(record.corrected for record in attachment.finished[-1].report.evaluations)
    assert corrected == (name in ALONG)
    assert torch.equal(*videos) == (not corrected)


def test_an_euler_that_adds_noise_is_not_corrected(tiny, auto):
    """As `s_churn` of the custom sampler nodes does."""
    import comfy.sample
    import comfy.samplers

    model, attachment = auto(tiny(WAN))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny(WAN).positive, tiny(WAN).negative)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    noise = comfy.sample.prepare_noise(tiny(WAN).latent, 1)
    for churn in (0.0, 5.0):
        sampler = comfy.samplers.ksampler("euler", {"s_churn": churn})
        with torch.inference_mode():
            guider.sample(noise, tiny(WAN).latent, sampler, sigmas, disable_pbar=True, seed=1)
    plain, churned = (any(each.corrected for each in run.report.evaluations) for run in attachment.finished)
    assert plain
    assert not churned
