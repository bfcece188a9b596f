"""The clips that the demo model learns show what their prompts say, and its latents are those of these clips."""

import pytest
import torch
from safetensors.torch import load_file

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from tools import clips, demo_model, demo_sheet, train_demo  # noqa: E402 (they need diffusers)

HEADINGS = dict(zip(clips.SLOTS[clips.DIRECTION], clips.HEADINGS, strict=False))


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(prompt, seed=0, batch=1, **size):
    return clips.draw(clips.words_of(prompt).expand(batch, -1), dice(seed), **size)


def some_clips(batch=16):
    throw = dice(1)
    return clips.draw(clips.random_prompts(batch, throw), throw)


def test_the_same_seed_draws_the_same_clips_and_another_one_others():
    words = clips.random_prompts(8, dice())
    assert torch.equal(clips.random_prompts(8, dice()), words)
    assert torch.equal(clips.draw(words, dice(3)), clips.draw(words, dice(3)))
    assert not torch.equal(clips.draw(words, dice(3)), clips.draw(words, dice(4)))


def test_the_words_are_the_rows_of_the_shipped_tokens():
    tokens = load_file(demo_model.ASSETS / "prompt_tokens.safetensors")["tokens"]
    assert sum(map(len, clips.SLOTS)) == len(tokens)
    for words in clips.random_prompts(50, dice()):
        prompt = clips.prompt_of(words)
        assert torch.equal(clips.words_of(prompt), words)
        assert torch.equal(train_demo.context_of(tokens.float(), words[None]), demo_model.prompt_context(prompt))


def test_random_prompts_have_every_word():
    words = clips.random_prompts(200, dice())
    assert [len(words[:, slot].unique()) for slot in range(len(clips.SLOTS))] == [len(slot) for slot in clips.SLOTS]


@pytest.mark.parametrize("frames", [1, 8])
@pytest.mark.parametrize("size", [16, 24])
def test_a_latent_of_a_size_has_a_clip_of_twice_the_size(frames, size):
    clip = draw("triangle many multi fast mixed checker", batch=2, frames=frames, size=size)
    assert clip.shape == (2, 3, 2 * frames, 2 * size, 2 * size)
    assert clip.abs().max() <= 1
    assert clips.encode(clip).shape == (2, 16, frames, size, size)


@pytest.mark.parametrize("heading", HEADINGS)
@pytest.mark.parametrize(("motion", "speed"), [("static", 0.0), ("slow", 0.35), ("fast", 1.5)])
def test_shapes_move_as_fast_and_where_the_prompt_says(motion, speed, heading):
    for seed in range(4):
        for shape in clips.SLOTS[clips.SHAPE]:
            steps = demo_sheet.velocities(draw(f"{shape} one red {motion} {heading} dark", seed))
            axis = torch.tensor(HEADINGS[heading])
            along, across = steps @ axis, steps @ axis.flip(0)
            assert across.abs().median() < 0.06  # soft edges on whole pixels
            # Median and amount: a fast shape bounces off the edges.
            assert 0.9 * speed - 0.03 <= along.abs().median() <= 1.1 * speed + 0.03


@pytest.mark.parametrize("heading", HEADINGS)
def test_shapes_set_out_in_the_direction_of_the_prompt(heading):
    seeds = range(20)
    first = torch.stack([demo_sheet.velocities(draw(f"circle one red slow {heading} dark", seed))[0] for seed in seeds])
    along = first @ torch.tensor(HEADINGS[heading])
    assert (along > 0).float().mean() > 0.8  # a few begin at the edge


@pytest.mark.parametrize("background", clips.SLOTS[clips.BACKGROUND])
def test_nothing_moves_when_static_and_textures_move_along_when_not(background):
    still, slow, fast = (
        draw(f"circle one red {motion} right {background}").diff(dim=2)[:, :, :, :4].abs().mean()
        for motion in ("static", "slow", "fast")
    )
    assert still == 0
    assert (background in ("stripes", "checker")) == (0 < slow < fast)


@pytest.mark.parametrize(("count", "number"), [("one", 1), ("few", 3), ("many", 6)])
def test_there_are_as_many_shapes_as_the_prompt_says(count, number):
    """By their area, of which overlaps take a little."""
    words = clips.words_of(f"circle {count} white static right dark")
    area = (clips.draw(words.expand(64, -1), dice()) > 0).float()[:, 0, 0].sum(dim=(1, 2)).mean()
    radius = 2 * clips.RADII[clips.SLOTS[clips.COUNT].index(count)]  # in pixels
    assert area == pytest.approx(number * torch.pi * radius**2, rel=0.1)


def test_every_latent_decodes_to_a_clip_that_encodes_to_it():
    latent = torch.randn(2, 16, 3, 4, 5, generator=dice())
    assert torch.allclose(clips.encode(clips.decode(latent)), latent, atol=1e-5)


def test_what_the_code_drops_of_a_clip_is_little():
    clip = some_clips()
    again = clips.decode(clips.encode(clip))
    assert torch.allclose(clips.encode(again), clips.encode(clip), atol=1e-5)
    assert (again - clip).square().mean() < 0.01 * clip.var()


def test_the_preview_of_a_latent_is_the_clip_at_half_the_size():
    clip = some_clips()
    half = torch.nn.functional.avg_pool3d(clip, 2)
    for latent, small in zip(clips.encode(clip), half, strict=True):
        assert torch.allclose(demo_model.preview(latent[None]), (small.permute(1, 2, 3, 0) + 1) / 2, atol=1e-5)


def test_latents_are_about_as_large_as_noise_in_every_channel():
    deviation = clips.encode(some_clips(64)).std(dim=(0, 2, 3, 4))
    assert deviation.min() > 0.25
    assert deviation.max() < 1.4


def test_the_shipped_model_knows_this_code():
    """The directions of the details are a convention: with one of the 13 turned round the error is five times this."""
    clip = some_clips(4)
    throw = dice(1)
    context = train_demo.context_of(train_demo.prompt_tokens(), clips.random_prompts(4, throw))
    with torch.inference_mode():
        loss = train_demo.flow_loss(demo_model.load("cpu"), clips.encode(clip), context, torch.full((4,), 0.3), throw)
    assert loss.mean() < 0.08
