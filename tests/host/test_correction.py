"""Corrections on the real host: its samplers are asked how they move, and end nearer to their plain video for it."""

from __future__ import annotations

import pytest
import torch

from research import demo_model

VIDEO = ("triangle one green fast down light", 203)
STEPS, CFG = 24, 4.0


def preview(model, sampler):
    """The video that the model makes with this sampler, (frames, height, width, 3)."""
    import comfy.sample

    prompt, seed = VIDEO
    positive, negative = ([[text[None], {}]] for text in demo_model.guided_context(prompt, CFG))
    noise = demo_model.noise_of(seed)
    with torch.inference_mode():
        samples = comfy.sample.sample(
            model,
            noise,
            STEPS,
            CFG,
            sampler,
            "simple",
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=seed,
        )
        return demo_model.preview(model.model.process_latent_in(samples))


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m", "gradient_estimation"])
def test_a_video_ends_nearer_to_the_plain_one_than_without(sampler, demo, planned, pack, monkeypatch):
    plain, errors = preview(demo, sampler), []
    for correct in (True, False):
        if not correct:
            monkeypatch.setattr(pack.adacache_core.correct.sampler, "linear_steps_of", lambda *_: None)
        model, attachment = planned(demo, (0, 1, *range(3, STEPS, 3), STEPS - 1), STEPS)
        errors.append(float((preview(model, sampler) - plain).square().mean()))
        assert any(record.corrected for record in attachment.finished[-1].report.evaluations) == correct
    corrected, without = errors
    assert 0 < corrected < 0.9 * without


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m_sde", "euler_ancestral"])
def test_asking_a_sampler_changes_nothing(sampler, tiny, pack):
    """`uni_pc` writes into the noise levels that it is given, and others draw noise."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(tiny("Wan t2v").model)
    sigmas = torch.linspace(1, 0, 11)
    drawn = torch.random.get_rng_state()
    found = pack.nodes.host.run._known_of(guider, comfy.samplers.sampler_object(sampler), sigmas)
    assert found.draws_noise == (sampler in ("dpmpp_2m_sde", "euler_ancestral"))
    assert (found.linear_steps is None) == found.draws_noise
    assert torch.equal(sigmas, torch.linspace(1, 0, 11))
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_a_sampler_of_somebody_else_is_not_asked(tiny, pack):
    import comfy.samplers

    def sample_theirs(*args, **kwargs):
        raise AssertionError("it was called")

    guider = comfy.samplers.CFGGuider(tiny("Wan t2v").model)
    sampler = comfy.samplers.KSAMPLER(sample_theirs)
    found = pack.nodes.host.run._known_of(guider, sampler, torch.linspace(1, 0, 11))
    assert (found.draws_noise, found.linear_steps, found.evaluations) == (None, None, None)
