"""Prompts in parts of the picture or of the run, with hooks and ControlNets, several at once; guidance of all kinds."""

from __future__ import annotations

import pytest
import torch
from host.running import STEPS, WATCH, Witness, assert_right, percent_of, row_of, sample
from host.tiny.variant import noise

WAN = "Wan t2v"
EVERY_THIRD = [(1, 1), (1, 1), (1, 0), (1, 0), (1, 1), (1, 0), (1, 0), (1, 1), (1, 1)]


def times(row, calls):
    return [(calls * one, calls * ran) for one, ran in row]


@pytest.fixture
def wan(tiny):
    return tiny(WAN)


def prompt(seed, **values):
    return [noise(1, 6, 4096, seed=seed), values]


def sampling(**changes):
    return lambda tiny, model: sample(tiny, model, **changes)


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_with_and_without_guidance_and_several_videos_at_once(cfg, batch, wan, adacache):
    latent = torch.zeros(batch, 16, 4, 7, 5)
    witness, report = assert_right(wan, wan.model, adacache, sampling(cfg=cfg, latent=latent))
    assert witness.row() == EVERY_THIRD
    assert report.computed == 5


def test_videos_of_a_batch_are_what_they_are_alone(wan, adacache):
    model, _ = adacache(wan.model, rate=3)
    both = torch.cat([noise(1, 16, 4, 7, 5, seed=seed) for seed in (1, 2)])
    together = sample(wan, model, noise=both, latent=torch.zeros_like(both))
    for index in (0, 1):
        alone = sample(wan, model, noise=both[index : index + 1])
        torch.testing.assert_close(alone, together[index : index + 1], rtol=0, atol=1e-4 * together.abs().max().item())


def test_areas_and_masks_have_residuals_of_their_own(wan, adacache):
    mask = torch.zeros(1, 7, 5)
    mask[:, :, :3] = 1
    parts = [
        *wan.positive,
        prompt(21, area=(4, 5, 0, 0), strength=1.0, set_area_to_bounds=False),
        prompt(22, mask=mask, mask_strength=0.7, set_area_to_bounds=False),
    ]
    witness, _ = assert_right(wan, wan.model, adacache, sampling(positive=parts))
    assert witness.row() == times(EVERY_THIRD, 2)  # of the area one call, of all others together another


def test_the_same_prompt_as_positive_and_negative_is_two(wan, adacache):
    area = prompt(21, area=(4, 5, 0, 0), strength=1.0)
    parts = sampling(positive=[*wan.positive, area], negative=[*wan.negative, area])
    assert_right(wan, wan.model, adacache, parts)


def test_a_prompt_that_begins_within_the_run_is_computed_when_it_first_comes(wan, adacache):
    model, attachment = adacache(wan.model, rate=3)
    late = prompt(21, start_percent=percent_of(wan, 2))
    early = [wan.positive[0][0], {"end_percent": percent_of(wan, 2)}]
    with Witness(wan) as witness:
        sample(wan, witness.watched(model), positive=[early, late], cfg=1.0)
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    assert witness.row()[2:4] == [(1, 1), (1, 0)]
    assert report.evaluations[2].reason == "nothing to reuse"


def lora_with_keyframes(strengths):
    """A LoRA hook on one conditioning, whose strength is another from these steps on: {step: strength}."""
    import comfy.hooks

    generator = torch.Generator().manual_seed(5)
    lora = {
        f"diffusion_model.blocks.2.self_attn.q.{name}.weight": torch.randn(*shape, generator=generator)
        for name, shape in (("lora_A", (4, 128)), ("lora_B", (128, 4)))
    }
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for percent, strength in strengths.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=percent))
    hooks.set_keyframes_on_hooks(hook_kf=keyframes)
    return hooks


def test_when_a_hook_changes_its_strength_the_model_is_computed_anew(wan, adacache):
    import comfy.hooks

    hooks = lora_with_keyframes({0.0: 0.5, percent_of(wan, 3): 1.0})
    positive = comfy.hooks.set_hooks_for_conditioning(wan.positive, hooks)
    negative = comfy.hooks.set_hooks_for_conditioning(wan.negative, hooks)
    run = sampling(positive=positive, negative=negative)
    watching, _ = adacache(wan.model, table=WATCH)
    hooked = run(wan, wan.model)
    assert torch.equal(run(wan, watching), hooked)
    assert not torch.equal(hooked, sample(wan))

    model, attachment = adacache(wan.model, rate=3)
    with Witness(wan) as witness:
        run(wan, witness.watched(model))
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert [index for index, (_, ran) in enumerate(witness.row()) if ran] == [0, 1, 3, 4, 7, 8]
    assert attachment.finished[-1].report.evaluations[3].reason == "nothing to reuse"


def test_of_two_prompts_only_the_one_whose_hook_changes_is_computed_anew(wan, adacache):
    import comfy.hooks

    hooks = lora_with_keyframes({0.0: 0.5, percent_of(wan, 3): 1.0})
    run = sampling(positive=comfy.hooks.set_hooks_for_conditioning(wan.positive, hooks))
    model, attachment = adacache(wan.model, rate=3)
    with Witness(wan) as witness:
        run(wan, witness.watched(model))
    assert row_of(attachment.finished[-1].report) == witness.row()
    assert witness.row()[2:5] == [(2, 0), (2, 1), (2, 2)]


def control(last_percent):
    """A ControlNet whose network adds the same to the first blocks, up to a part of the run."""
    import comfy.controlnet

    class Adds(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            if t[0] < self.timestep_range[1]:
                return None
            return {"input": [0.1 * noise(len(x_noisy), 64, 128, seed=8)] * 2, "output": []}

        def copy(self):
            made = Adds()
            self.copy_to(made)
            return made

    return Adds().set_cond_hint(torch.zeros(1, 3, 8, 8), 1.0, (0.0, last_percent))


@pytest.mark.parametrize("last_step", [None, 3])
def test_a_controlnet_is_in_what_is_reused_and_when_it_ends_the_model_is_computed_anew(last_step, tiny, adacache):
    hunyuan = tiny("HunyuanVideo")
    end = 1.0 if last_step is None else percent_of(hunyuan, last_step)
    parts = [
        [[text, {**values, "control": control(end), "control_apply_to_uncond": False}]]
        for text, values in (hunyuan.positive[0], hunyuan.negative[0])
    ]
    run = sampling(positive=parts[0], negative=parts[1])
    watching, _ = adacache(hunyuan.model, table=WATCH)
    controlled = run(hunyuan, hunyuan.model)
    assert torch.equal(run(hunyuan, watching), controlled)
    assert not torch.equal(controlled, sample(hunyuan))

    model, attachment = adacache(hunyuan.model, rate=3)
    with Witness(hunyuan) as witness:
        run(hunyuan, witness.watched(model))
    report = attachment.finished[-1].report
    assert row_of(report) == witness.row()
    steps = [record.step for record in report.evaluations if record.state == "computed"]
    assert steps == [0, 1, 4, 7, 8] if last_step is None else [0, 1, 3, 4, 7, 8]


def guided_by(guider):
    """Sampling with a guider of the host's, as SamplerCustomAdvanced does."""

    def run(tiny, model):
        import comfy.sample
        import comfy.samplers

        guide = guider(tiny, model)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
        drawn = comfy.sample.prepare_noise(tiny.latent, 1)
        sampler = comfy.samplers.sampler_object("euler")
        with torch.inference_mode():
            return guide.sample(drawn, tiny.latent, sampler, sigmas, disable_pbar=True, seed=1)

    return run


def cfg_guider(tiny, model):
    import comfy.samplers

    guide = comfy.samplers.CFGGuider(model)
    guide.set_conds(tiny.positive, tiny.negative)
    guide.set_cfg(5.0)
    return guide


def basic_guider(tiny, model):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guide = Guider_Basic(model)
    guide.set_conds(tiny.positive)
    return guide


def dual_cfg_guider(tiny, model):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guide = Guider_DualCFG(model)
    guide.set_conds(tiny.positive, [prompt(21)], tiny.negative)
    guide.set_cfg(5.0, 3.0)
    return guide


def perp_neg_guider(tiny, model):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    guide = Guider_PerpNeg(model)
    guide.set_conds(tiny.positive, tiny.negative, [prompt(21)])
    guide.set_cfg(5.0, 1.0)
    return guide


def test_the_strength_of_the_guidance_is_the_largest_of_a_guiders_scales(wan, pack):
    guiders = (cfg_guider, basic_guider, dual_cfg_guider, perp_neg_guider)
    assert [pack.nodes.host.run._guidance(guider(wan, wan.model)) for guider in guiders] == [5.0, 1.0, 5.0, 5.0]


@pytest.mark.parametrize("guider", [cfg_guider, basic_guider, dual_cfg_guider, perp_neg_guider])
def test_guiders(guider, wan, adacache):
    witness, report = assert_right(wan, wan.model, adacache, guided_by(guider))
    assert witness.row() == EVERY_THIRD
    assert report.computed == 5


def test_perturbed_attention_guidance_has_a_second_visit_of_its_own(wan, adacache):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    guided = PerturbedAttentionGuidance.execute(wan.model, 3.0).args[0]
    witness, _ = assert_right(wan, guided, adacache)
    assert witness.row() == times(EVERY_THIRD, 2)


def test_spatiotemporal_guidance_of_ltxv_has_a_second_visit_of_its_own(tiny, adacache):
    nodes_lt = pytest.importorskip("comfy_extras.nodes_lt")
    if not hasattr(nodes_lt, "LTXVSpatioTemporalGuidance"):
        pytest.skip("this ComfyUI has no LTXV STG node")
    ltxv = tiny("LTXV")
    guided = nodes_lt.LTXVSpatioTemporalGuidance.execute(ltxv.model, 1.0, "1", 0.0, 1.0).args[0]
    witness, _ = assert_right(ltxv, guided, adacache)
    assert witness.row() == times(EVERY_THIRD, 2)


@pytest.mark.parametrize("denoise", [0.5, 0.9])
def test_from_a_given_video_on(denoise, wan, adacache):
    given = noise(1, 16, 4, 7, 5, seed=4)
    witness, _ = assert_right(wan, wan.model, adacache, sampling(latent=given, denoise=denoise))
    assert witness.row() == EVERY_THIRD
