"""Drawn clips show what their prompts say, latents match their clips, and real clips match the list."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from safetensors.torch import load_file

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

from research import clips, demo_model, demo_sheet, real_clips  # noqa: E402 (they need diffusers)
from research.small_models import MODELS, context_of, prompt_tokens  # noqa: E402
from research.train_demo import flow_loss  # noqa: E402

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
        assert torch.equal(context_of(tokens.float(), words[None]), demo_model.prompt_context(prompt))


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
    """Counted by their area, which overlaps reduce a little."""
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
    subject, levels = MODELS["demo"], torch.full((4,), 0.3)
    context = context_of(prompt_tokens(), clips.random_prompts(4, throw))
    with torch.inference_mode():
        loss = flow_loss(subject, subject.load(), clips.encode(clip), context, levels, throw)
    assert loss.mean() < 0.08


# Real clips


def whole(number):
    try:
        return real_clips.clip(number)
    except PackageNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")


def test_the_list_has_as_many_clips_in_each_class_and_the_liveliest_in_the_last():
    classes, changes = real_clips.classes(), [row["change"] for row in real_clips.listed()]
    sizes = [classes.count(each) for each in real_clips.CLASSES]
    assert sum(sizes) == len(classes)
    assert max(sizes) - min(sizes) <= 1
    by_change = [each for _, each in sorted(zip(changes, classes, strict=True))]
    assert by_change == sorted(classes, key=real_clips.CLASSES.index)


@pytest.mark.parametrize("number", [0, len(real_clips.listed()) - 1])
def test_a_listed_clip_is_there_and_changes_as_much_as_listed(number):
    clip = whole(number)
    assert clip.shape[0] == 3
    assert clip.shape[1] >= real_clips.LEAST
    assert clip.shape[2:] == (real_clips.SIZE, real_clips.SIZE)
    assert clip.abs().max() <= 1
    assert real_clips.change(clip) == pytest.approx(real_clips.listed()[number]["change"], abs=0.01)


def test_of_a_clip_neighbouring_frames_are_drawn_from_a_place_that_is_thrown():
    clip, throw = whole(3), dice()
    begins = set()
    for cut in (real_clips.draw(torch.tensor([3]), throw, frames=6)[0] for _ in range(8)):
        places = [begin for begin in range(clip.shape[1] - 5) if torch.equal(clip[:, begin : begin + 6], cut)]
        assert places
        begins.update(places)
    assert len(begins) > 2


def test_every_number_is_a_prompt_of_its_own_like_those_of_words():
    contexts = torch.stack([real_clips.context(number) for number in range(len(real_clips.listed()))]).flatten(1)
    nearest = torch.cdist(contexts, contexts).fill_diagonal_(torch.inf).min()
    assert nearest > 0.9 * (2 * contexts.shape[1]) ** 0.5 * real_clips.SPREAD  # as far apart as independent ones
    assert contexts.std().item() == pytest.approx(prompt_tokens().std().item(), rel=0.05)


def test_the_nearest_stretch_of_a_clip_is_found():
    clip = torch.rand(3, 9, 4, 4, generator=dice())
    made = clip[None, :, 5:8] + 0.01
    assert torch.equal(demo_sheet.nearest(clip, made), clip[None, :, 5:8])


# The sheet


@pytest.mark.parametrize("name", ["demo", "clips", "distilled"])
def test_a_sheet_has_a_row_for_each_prompt_and_a_strip_for_each_clip(name, monkeypatch):
    """The sheet of a model that predicts zero."""
    if name == "clips":
        whole(0)
        monkeypatch.setattr(demo_sheet, "A_CLASS", 1)
    monkeypatch.setattr(demo_sheet, "DRAWN", 2)
    subject = replace(MODELS[name], ask=lambda model, x, levels, contexts: torch.zeros_like(x))
    rows, strips = {"demo": (8, 1), "clips": (len(real_clips.CLASSES), 2), "distilled": (8, 2)}[name]
    _, _, frames, height, width = subject.latent
    row = demo_sheet.CAPTION + strips * 2 * height * demo_sheet.SCALE
    assert demo_sheet.sheet(subject, None).size == (frames * 2 * width * demo_sheet.SCALE, rows * row)


def test_a_clip_is_generated_as_the_demo_model_is_sampled():
    model, prompt = demo_model.load("cpu"), demo_sheet.PROMPTS[2]
    sampling = demo_sheet.Sampling(tuple(demo_model.sigmas(4).tolist()), 4.0)
    generated = demo_sheet.generate(MODELS["demo"], model, demo_model.prompt_context(prompt), sampling, seed=5)
    latent, _ = demo_model.sample(model, prompt, seed=5, steps=4, cfg=4.0)
    assert torch.allclose(generated, clips.decode(latent).clamp(-1, 1), atol=1e-4)
