"""Preset auto on the real host: what is skipped never reaches the model, and it lands where it was asked to."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from host.running import PLAN, STEPS, Witness, each, joined, replay, row_of, sample
from host.tiny import VARIANTS
from torch import nn

from research import demo_model

WAN = "Wan t2v"
SKIPPED = [step for step in range(STEPS) if step not in PLAN]

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def plain(tiny):
    """`plain(variant)` -> the video of the unpatched model, and the latents before each of its steps."""

    def run(variant):
        latents = []
        video = sample(tiny(variant), callback=lambda step, video, x, steps: latents.append(joined(x).clone()))
        return video, latents

    return cache(run)


@every_variant
def test_a_skipped_evaluation_never_reaches_the_model_and_the_report_is_true(variant, tiny, planned, plain):
    model, attachment = planned(tiny(variant).model)
    latents = []
    with Witness(tiny(variant)) as witness:
        video = sample(
            tiny(variant),
            witness.watched(model),
            callback=lambda step, video, x, steps: latents.append(joined(x).clone()),
        )
    report = attachment.finished[-1].report
    calls, _ = witness.row()[0]
    assert witness.row() == [(calls, calls) if step in PLAN else (0, 0) for step in range(STEPS)]
    assert row_of(report) == witness.row()
    assert [record.step for record in report.evaluations if record.state == "reused"] == SKIPPED
    assert [record.step for record in report.evaluations if record.error is not None] == [1, 4, 7, 8]
    assert (report.reuse, report.notes) == ("output", [])
    assert 2 * video[:1].nbytes <= report.cache_bytes_max <= 10 * video.nbytes
    assert video.isfinite().all()
    for call in witness.calls:  # and what does reach it is what it says anyway
        assert all(map(torch.equal, each(replay(tiny(variant), call)), each(call.output)))
    unpatched, expected = plain(variant)
    assert [torch.equal(*both) for both in zip(latents, expected, strict=True)] == [True] * 3 + [False] * 6
    assert not torch.equal(video, unpatched)


@every_variant
def test_what_the_errors_say_is_done_and_the_report_is_true(variant, tiny, adacache):
    model, attachment = adacache(tiny(variant).model, target=3.0)
    with Witness(tiny(variant)) as witness:
        video = sample(tiny(variant), witness.watched(model), steps=16)
    report = attachment.finished[-1].report
    assert video.isfinite().all()
    assert row_of(report) == witness.row()
    skipped = [record.step for record in report.evaluations if record.state == "reused"]
    assert skipped == [step for step, (calls, _) in enumerate(witness.row()) if not calls]
    for record in report.evaluations:
        assert (record.reason == "below tolerance") == (record.step in skipped)
        assert (record.error is None) == (record.step in skipped or record.step == 0)


@every_variant
def test_a_speedup_of_one_is_off(variant, tiny, adacache, plain):
    model, attachment = adacache(tiny(variant).model, target=1.0)
    assert torch.equal(sample(tiny(variant), model), plain(variant)[0])
    report = attachment.finished[-1].report
    assert report.computed == report.total == STEPS
    assert report.cache_bytes_max == 0


# A flow model, one whose latents are video + sigma noise that is told the noise, one that is told a mix, and sound.
@pytest.mark.parametrize("variant", [WAN, "PixArt Alpha", "CogVideoX 2B", "Cosmos 1", "LTX-2"])
def test_at_the_first_skipped_step_the_velocity_goes_on_by_half_of_its_change(variant, tiny, planned, pack):
    """Worked out here a second time, from what the sampler is given."""
    from comfy.patcher_extension import WrappersMP

    seen = []

    def note(executor, x, timestep, *args, **kwargs):
        video = executor(x, timestep, *args, **kwargs)
        seen.append((float(timestep.max()), x.clone(), video.clone()))
        return video

    model, _ = planned(tiny(variant).model)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", note)
    sample(tiny(variant), model)

    sampling = tiny(variant).model.get_model_object("model_sampling")
    half, one = torch.tensor([0.5]), torch.ones(1)
    flow = float(sampling.noise_scaling(half, 0 * one, one)) == 0.5
    assert flow == (variant in (WAN, "LTX-2"))
    soft = pack.adacache_core.decide.levels.SOFT
    found = []
    for sigma, x, video in seen[:3]:
        level, scaled = (sigma, x) if flow else (sigma / (1 + sigma), x / (1 + sigma))
        found.append((math.log((1 - level + soft) / (level + soft)), (scaled - video) / level))
    (first, before), (second, last), (third, given) = found
    expected = last + 0.5 * (last - before) * (third - second) / (second - first)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("separately", [False, True])
def test_prompts_together_or_one_by_one_make_the_same_video(separately, tiny, planned, monkeypatch):
    wan = tiny(WAN)
    model, _ = planned(wan.model)
    expected = sample(wan, model)
    if separately:
        monkeypatch.setattr(
            wan.model.model, "memory_required", lambda shape, *_, **__: 0 if shape[0] == 1 else math.inf
        )
    with Witness(wan) as witness:
        video = sample(wan, witness.watched(model))
    calls = 1 + separately
    assert witness.row() == [(calls, calls) if step in PLAN else (0, 0) for step in range(STEPS)]
    torch.testing.assert_close(video, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# Models that nobody has told us of


class Anything(nn.Module):
    """No transformer, no blocks, no row in the table."""

    def __init__(self, module):
        super().__init__()
        self.patch_size, self.patch_embedding = module.patch_size, module.patch_embedding  # which its host looks at
        self.dtype = torch.float32
        torch.manual_seed(0)
        self.mix = nn.Conv3d(16, 16, 3, padding=1)
        self.ran = 0

    def forward(self, x, timestep, context, **kwargs):
        self.ran += 1
        return torch.tanh(self.mix(x)) + timestep.view(-1, 1, 1, 1, 1) / 1000 * x + 0.1 * context.mean()


@pytest.fixture
def anything(tiny):
    """The tiny Wan with another module in it, of a class that no row names."""
    made = tiny(WAN).variant.build()
    made.model.model.diffusion_model = Anything(made.module)
    return made


def test_a_model_that_no_row_names_is_skipped_by_auto(anything, planned):
    module = anything.model.model.diffusion_model
    model, attachment = planned(anything.model)
    video = sample(anything, model)
    report = attachment.finished[-1].report
    assert (report.model, report.family, report.notes) == ("Anything", "", [])
    assert row_of(report) == [(1, 1) if step in PLAN else (0, 0) for step in range(STEPS)]
    assert module.ran == len(PLAN)
    assert video.isfinite().all()
    assert torch.equal(sample(anything, model), video)


def test_a_model_that_no_row_names_is_refused_by_the_tables_in_a_sentence(anything, adacache, pack):
    for settings in ({"rate": 3}, {"watch": True, "target": 2.0}):
        with pytest.raises(pack.adacache_core.AdaCacheError) as raised:
            adacache(anything.model, **settings)
        said = str(raised.value)
        assert said.startswith(f"AdaCache cannot find the blocks of WAN21_T2V (Anything from {__name__}).")
        assert "Use preset auto or quality, which work on any model." in said


def test_a_known_model_whose_row_is_gone_makes_the_same_video(tiny, planned, pack, monkeypatch):
    """The row is not needed: only whether blocks ran is not seen any more."""
    with_row, of_it = planned(tiny(WAN).model)
    expected = sample(tiny(WAN), with_row)
    monkeypatch.setattr(pack.nodes.host.families, "_BY_CLASS", {})
    without, attachment = planned(tiny(WAN).model)
    assert torch.equal(sample(tiny(WAN), without), expected)
    reports = [each.finished[-1].report for each in (of_it, attachment)]
    assert [report.family for report in reports] == ["Wan", ""]
    assert row_of(reports[0]) == row_of(reports[1])


def test_a_model_that_is_left_out_on_purpose_is_computed_and_it_is_said(anything, planned, pack, monkeypatch):
    monkeypatch.setitem(pack.nodes.host.run.LEFT_OUT, f"{__name__}.Anything", "it makes frame after frame")
    model, attachment = planned(anything.model)
    assert torch.equal(sample(anything, model), sample(anything))
    report = attachment.finished[-1].report
    assert report.computed == report.total == STEPS
    assert report.notes == ["cannot skip steps: it makes frame after frame, so every step is computed"]


# Where only a part of the latent is made


@pytest.mark.parametrize("settings", [{"target": 3.0}, "a plan"], ids=["auto", "plan"])
@pytest.mark.parametrize("variant", [WAN, "LTX-2"])
def test_what_lies_outside_the_mask_is_left_as_it_was(settings, variant, tiny, adacache, planned):
    made = tiny(variant)
    video = made.latent.unbind()[0] if made.latent.is_nested else made.latent
    given = torch.randn(video.shape, generator=torch.Generator().manual_seed(4))
    latent, mask = given, torch.zeros(1, 1, *video.shape[2:])
    mask[..., :2] = 1
    if made.latent.is_nested:
        latent = type(made.latent)([given, made.latent.unbind()[1]])
    model, attachment = planned(made.model) if settings == "a plan" else adacache(made.model, **settings)
    runs = [sample(made, each, latent=latent, noise_mask=mask) for each in (made.model, model)]
    report = attachment.finished[-1].report
    if settings == "a plan":
        assert report.skipped == len(SKIPPED)
        assert not torch.equal(*runs)
    outside = (1 - mask).expand(video.shape).bool().flatten()
    before, after = (run.flatten()[: video.numel()][outside] for run in runs)
    assert torch.equal(before, after)
    torch.testing.assert_close(after, given.flatten()[outside], rtol=1e-4, atol=1e-4)


def test_errors_outside_the_mask_do_not_count(tiny, planned, pack, monkeypatch):
    """Errors are measured by the engine's own ruler, which is told the mask that the host was given."""
    masks = []
    distance = pack.adacache_core.reuse.output.distance

    def noting(velocity, forecast, mask=None):
        masks.append(mask)
        return distance(velocity, forecast, mask)

    monkeypatch.setattr(pack.adacache_core.reuse.output, "distance", noting)
    wan = tiny(WAN)
    mask = torch.zeros(1, 1, *wan.latent.shape[2:])
    mask[..., :2] = 1
    model, _ = planned(wan.model)
    sample(wan, model, noise_mask=mask)
    assert len(masks) == len(PLAN) - 1
    for each_mask in masks:
        assert torch.equal(each_mask.expand(wan.latent.shape), mask.expand(wan.latent.shape))
    masks.clear()
    sample(wan, model)
    assert masks == [None] * (len(PLAN) - 1)


# Samplers


FINE = {"computed": (*range(0, 15, 3), 14, 15), "steps": 16}  # as far apart as a correction is believed to reach


# Those that show how they use what they are given, and those that do otherwise or never forget it.
ALONG = ["euler", "ddim", "uni_pc", "uni_pc_bh2", "dpmpp_2m", "res_multistep", "gradient_estimation"]
OTHERWISE = ["heun", "dpm_2", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "ipndm", "deis", "lms"]


@pytest.mark.parametrize("name", [*ALONG, *OTHERWISE])
def test_only_samplers_that_it_brings_nearer_are_corrected(name, tiny, planned, pack, monkeypatch):
    model, attachment = planned(tiny(WAN).model, **FINE)
    with_it = sample(tiny(WAN), model, sampler_name=name, steps=16)
    known_of = pack.nodes.host.run._known_of
    monkeypatch.setattr(pack.nodes.host.run, "_known_of", lambda *given: replace(known_of(*given), linear_steps=None))
    without = sample(tiny(WAN), model, sampler_name=name, steps=16)
    with_report, without_report = (run.report for run in attachment.finished)
    corrected = any(record.corrected for record in with_report.evaluations)
    assert corrected == (name in ALONG)
    assert torch.equal(with_it, without) == (not corrected)
    assert not any(record.corrected for record in without_report.evaluations)


def test_an_euler_that_adds_noise_is_not_corrected(tiny, planned):
    """As `s_churn` of the custom sampler nodes does."""
    import comfy.sample
    import comfy.samplers

    model, attachment = planned(tiny(WAN).model, **FINE)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny(WAN).positive, tiny(WAN).negative)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 16)
    noise = comfy.sample.prepare_noise(tiny(WAN).latent, 1)
    for churn in (0.0, 5.0):
        sampler = comfy.samplers.ksampler("euler", {"s_churn": churn})
        with torch.inference_mode():
            video = guider.sample(noise, tiny(WAN).latent, sampler, sigmas, disable_pbar=True, seed=1)
        assert video.isfinite().all()  # churned noise lies above the levels, even above those of a flow model
    assert attachment.finished[0].report.skipped == 9
    plain, churned = (any(each.corrected for each in run.report.evaluations) for run in attachment.finished)
    assert plain
    assert not churned


def test_a_sampler_of_somebody_else_is_skipped_as_well_but_not_corrected(tiny, planned):
    import comfy.sample
    import comfy.samplers
    from comfy.k_diffusion.sampling import sample_euler

    def theirs(model, x, sigmas, **rest):
        return sample_euler(model, x, sigmas, **rest)

    wan = tiny(WAN)
    model, attachment = planned(wan.model)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    noise = comfy.sample.prepare_noise(wan.latent, 1)
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model,
            noise,
            4.0,
            comfy.samplers.KSAMPLER(theirs),
            sigmas,
            wan.positive,
            wan.negative,
            wan.latent,
            disable_pbar=True,
            seed=1,
        )
    report = attachment.finished[-1].report
    assert report.skipped == len(SKIPPED)
    assert not any(record.corrected for record in report.evaluations)


def test_a_target_out_of_reach_is_said(tiny, adacache):
    model, attachment = adacache(tiny(WAN).model, target=4.4)
    sample(tiny(WAN), model, steps=9)
    assert attachment.finished[-1].report.notes == ["4.4x cannot be reached in 9 steps: too many are always computed"]


# On videos that are videos: the shipped demo model


PROMPT, SEED = "triangle one green fast down light", 203


def demo_prompt(text=PROMPT):
    """Of the demo model, as the host's conditionings have it."""
    return demo_model.guided_context(text, 4.0)[0][None]


def demo_video(model, steps, sampler="euler", **changes):
    """A small part of a demo video, which says as much, sooner."""
    import comfy.sample

    positive, negative = ([[text[None], {}]] for text in demo_model.guided_context(PROMPT, 4.0))
    noise = demo_model.noise_of(SEED)[:, :, :4, :8, :8]
    given = {"positive": positive, "negative": negative, "latent_image": torch.zeros_like(noise)} | changes
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, 4.0, sampler, "simple", **given, seed=SEED, disable_pbar=True)


@pytest.mark.parametrize("target", [1.5, 2.0, 2.5])
@pytest.mark.parametrize("steps", [20, 30])
def test_it_lands_near_its_target_and_the_video_is_the_plain_one_but_for_a_little(steps, target, demo, adacache):
    model, attachment = adacache(demo, target=target)
    video, plain = demo_video(model, steps), demo_video(demo, steps)
    report = attachment.finished[-1].report
    assert 0.75 * target <= report.counted_speedup <= 1.1 * target
    assert any(record.corrected for record in report.evaluations)
    assert (video - plain).norm() < 0.3 * plain.norm()
    assert not [note for note in report.notes if not note.startswith(f"{target:g}x would change this video visibly")]


def test_the_more_is_asked_for_the_less_is_computed(demo, adacache):
    computed = []
    for target in (1.2, 1.6, 2.0, 3.0):
        model, attachment = adacache(demo, target=target)
        demo_video(model, 30)
        computed.append(attachment.finished[-1].report.computed)
    assert computed == sorted(computed, reverse=True)
    assert computed[-1] < computed[0] - 8


@pytest.mark.parametrize("name", ["heun", "dpm_2"])
@pytest.mark.parametrize("steps", [15, 24])
def test_it_lands_near_its_target_with_samplers_of_several_evaluations(name, steps, demo, adacache):
    model, attachment = adacache(demo, target=2.0)
    demo_video(model, steps, name)
    report = attachment.finished[-1].report
    assert 1.5 <= report.counted_speedup <= 2.4
    by_step = {step: {record.state for record in report.evaluations if record.step == step} for step in range(steps)}
    assert all(len(states) == 1 for states in by_step.values())


@pytest.mark.parametrize(
    "name", ["dpmpp_sde", "dpmpp_2s_ancestral", "seeds_2", "seeds_3", "euler_ancestral", "dpmpp_2m_sde", "lcm"]
)
def test_with_fresh_noise_it_skips_nothing_and_says_why_unless_a_plan_says_what(name, demo, adacache, planned):
    model, attachment = adacache(demo, target=2.0)
    assert torch.equal(demo_video(model, 12, name), demo_video(demo, 12, name))
    report = attachment.finished[-1].report
    assert report.computed == report.total
    (note,) = report.notes
    assert note.startswith(f"{name} draws fresh noise, so any skipped step would give another video")
    followed, attachment = planned(demo, tuple(range(0, 12, 2)), 12)
    demo_video(followed, 12, name)
    report = attachment.finished[-1].report
    assert {record.step for record in report.evaluations if record.state == "reused"} == set(range(1, 12, 2))
    assert report.notes == [f"{name} draws fresh noise: expect a similar video, not the same one"]
