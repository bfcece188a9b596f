"""The demo model, its prompts and the latent preview, on the real host."""

from __future__ import annotations

import pytest
import torch

from research import clips


@pytest.fixture(scope="module")
def demo_model(pack):
    return pack.nodes.demo.model.AdaCacheDemoModel.execute().args[0]


@pytest.fixture(scope="module")
def prompt(pack):
    """`prompt("square one blue slow right light")` -> CONDITIONING; `prompt("")` is the empty one."""

    def conditioning(text: str):
        slots = pack.nodes.demo.prompt.WORDS
        words = text.split() or [options[0] for options in slots.values()]
        named = dict(zip(slots, words, strict=True))
        return pack.nodes.demo.prompt.AdaCacheDemoPrompt.execute(empty=not text, **named).args[0]

    return conditioning


@pytest.fixture(scope="module")
def preview(pack):
    def pictures(model, samples, scale=1, **more):
        return pack.nodes.demo.preview.AdaCacheLatentPreview.execute(model, {"samples": samples}, scale, **more).args[0]

    return pictures


def sample(model, positive, negative, steps=6, batch=1):
    import comfy.sample

    latent = torch.zeros(batch, 16, 8, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 1)
    return comfy.sample.sample(
        model, noise, steps, 4.0, "euler", "simple", positive, negative, latent, seed=1, disable_pbar=True
    )


class StandIn:
    """A MODEL of any latent format: what the preview asks of a model, and no weights."""

    def __init__(self, latent_format):
        self.model = self
        self.latent_format = latent_format
        self.process_latent_in = latent_format.process_in

    def get_attachment(self, key):
        return None


def formats_with_colours():
    import comfy.latent_formats

    formats = [kind() for kind in vars(comfy.latent_formats).values() if isinstance(kind, type)]
    return [each for each in formats if each.latent_rgb_factors is not None]


def reshape_of(latent_format):
    """Older hosts have none."""
    return getattr(latent_format, "latent_rgb_factors_reshape", None)


def latent_of(latent_format, batch=2, frames=3):
    factors = len(latent_format.latent_rgb_factors)
    # Not always `latent_channels`: that of MiniMax-H3 counts its sound.
    channels = latent_format.latent_channels if reshape_of(latent_format) else factors
    shape = (frames, 4, 6) if latent_format.latent_dimensions == 3 else (4, 6)
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(0))


def hosts_picture(latent_format, samples):
    """The host's own live preview of the first frame of the first item, 0..255."""
    import numpy as np
    from latent_preview import Latent2RGBPreviewer

    reshape = [reshape_of(latent_format)] if reshape_of(latent_format) else []
    previewer = Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias, *reshape)
    return torch.from_numpy(np.array(previewer.decode_latent_to_preview(latent_format.process_in(samples)))).float()


def test_the_prompt_is_one_token_row_per_slot_in_the_order_of_training(pack, prompt):
    from safetensors.torch import load_file

    tokens = load_file(pack.nodes.demo.model.ASSETS / "prompt_tokens.safetensors")["tokens"].float()
    first, last = prompt("circle one red static right dark"), prompt("triangle many multi fast mixed checker")
    assert torch.equal(first[0][0], tokens[[0, 3, 6, 12, 15, 20]][None])
    assert torch.equal(last[0][0], tokens[[2, 5, 11, 14, 19, 23]][None])
    assert sorted(pack.nodes.demo.prompt.ROW_OF.values()) == list(range(len(tokens)))


def test_the_empty_prompt_is_zeros_of_the_same_shape(prompt):
    context = prompt("")[0][0]
    assert context.shape == (1, 6, 4096)
    assert not context.any()


def test_the_demo_model_paints_what_the_prompt_says(demo_model, prompt, preview):
    red_on_dark = preview(demo_model, sample(demo_model, prompt("circle one red static right dark"), prompt("")))
    blue_on_light = preview(demo_model, sample(demo_model, prompt("square one blue slow right light"), prompt("")))
    assert red_on_dark.shape == (8, 16, 16, 3)
    assert red_on_dark[:, 0, 0].mean() < 0.2 < 0.5 < blue_on_light[:, 0, 0].mean()
    for video, colour, other in ((red_on_dark, 0, 2), (blue_on_light, 2, 0)):
        tint = video[..., colour] - video[..., other]
        assert -0.4 < tint.min() < 0.6 < tint.max()


def test_one_frame_equals_the_hosts_own_preview_for_every_format_that_has_colours(host, preview):
    formats = formats_with_colours()
    assert {"Wan21", "HunyuanVideo", "LTXV", "SDXL"} <= {type(each).__name__ for each in formats}
    for latent_format in formats:
        samples = latent_of(latent_format)
        ours = preview(StandIn(latent_format), samples)[0] * 255
        assert (ours - hosts_picture(latent_format, samples)).abs().max() <= 1, type(latent_format).__name__


def test_a_sampled_video_equals_the_hosts_own_preview(demo_model, prompt, preview):
    samples = sample(demo_model, prompt("circle few multi fast mixed stripes"), prompt(""), steps=2)
    latent_format = demo_model.model.latent_format
    for frame, ours in enumerate(preview(demo_model, samples)):
        hosts = hosts_picture(latent_format, samples[:, :, frame : frame + 1])
        assert (ours * 255 - hosts).abs().max() <= 1


def test_all_frames_of_all_batch_items_are_shown_one_video_after_another(demo_model, preview):
    samples = torch.randn(2, 16, 3, 4, 6)
    pictures = preview(demo_model, samples)
    assert pictures.shape == (6, 4, 6, 3)
    assert 0 <= pictures.min() < pictures.max() <= 1
    assert torch.allclose(pictures[3 * 1 + 2], preview(demo_model, samples[1:, :, 2:])[0], atol=1e-6)


def test_a_picture_latent_is_a_video_of_one_frame(demo_model, preview):
    samples = torch.randn(3, 16, 4, 6)
    assert torch.equal(preview(demo_model, samples), preview(demo_model, samples[:, :, None]))


def test_scale_makes_every_latent_pixel_a_square(demo_model, preview):
    samples = torch.randn(1, 16, 2, 4, 6)
    large, small = preview(demo_model, samples, scale=3), preview(demo_model, samples)
    assert large.shape == (2, 12, 18, 3)
    for offset in range(3):
        assert torch.equal(large[:, offset::3, offset::3], small)


def test_a_latent_of_the_demo_model_is_shown_smoothly_as_the_clip_that_it_holds(pack, demo_model, preview):
    dice = torch.Generator().manual_seed(1)
    drawn = clips.draw(clips.random_prompts(1, dice), dice)  # (1, 3, 16, 32, 32)
    latent = clips.encode(drawn)
    assert torch.allclose(pack.nodes.demo.model.clip_of(latent), clips.pictures(latent), atol=1e-5)
    shown = preview(demo_model, demo_model.model.process_latent_out(latent), 2, smooth=True)
    assert shown.shape == (16, 32, 32, 3)
    assert torch.allclose(shown, clips.pictures(latent), atol=1e-4)
    assert (2 * shown.movedim(-1, 0) - 1 - drawn[0]).square().mean() < 0.05 * drawn.var()


def test_with_adacache_it_is_still_known_for_the_demos(pack, demo_model):
    patched = pack.nodes.host.attach.attach(demo_model, pack.adacache_core.auto(2.0), "auto")
    assert len(pack.nodes.demo.preview.pictures_of(patched, torch.randn(1, 16, 8, 16, 16))) == 16


def test_smooth_has_no_hard_edges_on_any_format(host, preview):
    from comfy.latent_formats import LTXV

    samples = torch.randn(1, 128, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    smooth, squares = (preview(StandIn(LTXV()), samples, 8, smooth=smooth) for smooth in (True, False))
    assert smooth.shape == squares.shape == (2, 32, 48, 3)
    assert smooth.diff(dim=1).abs().max() < 0.5 * squares.diff(dim=1).abs().max()
    assert (smooth.mean() - squares.mean()).abs() < 0.01


def test_of_video_and_sound_the_video_is_shown(host, preview):
    from comfy.latent_formats import LTXV

    nested = pytest.importorskip("comfy.nested_tensor").NestedTensor
    video, sound = torch.randn(1, 128, 2, 4, 6), torch.randn(1, 8, 16, 16)
    model = StandIn(LTXV())
    assert torch.equal(preview(model, nested([video, sound])), preview(model, video))


def test_a_model_without_preview_colours_is_named_and_vae_decode_advised(host, preview):
    from comfy.latent_formats import StableAudio1

    with pytest.raises(Exception, match=r"StandIn.*StableAudio1.*VAE Decode"):
        preview(StandIn(StableAudio1()), torch.zeros(1, 64, 16))


def test_a_latent_of_another_model_is_refused_with_both_channel_counts(demo_model, preview):
    with pytest.raises(Exception, match=r"4 channels.*WAN21.*16"):
        preview(demo_model, torch.zeros(1, 4, 8, 8))


def test_ids_and_input_orders_are_frozen_and_every_input_has_a_tooltip(pack):
    frozen = {
        pack.nodes.demo.model.AdaCacheDemoModel: ("AdaCacheDemoModel", []),
        pack.nodes.demo.prompt.AdaCacheDemoPrompt: (
            "AdaCacheDemoPrompt",
            ["shape", "count", "colour", "motion", "direction", "background", "empty"],
        ),
        pack.nodes.demo.preview.AdaCacheLatentPreview: (
            "AdaCacheLatentPreview",
            ["model", "latent", "scale", "smooth"],
        ),
    }
    for node, (node_id, inputs) in frozen.items():
        schema = node.define_schema()
        assert schema.node_id == node_id
        assert [each.id for each in schema.inputs] == inputs
        assert all(len(each.tooltip) > 20 for each in schema.inputs)
