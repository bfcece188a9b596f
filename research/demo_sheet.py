"""Shows what a small model can do: a contact sheet, its validation loss, and the speed of its motion.

    python -m research.demo_sheet [NAME] [--checkpoint FILE] [--image docs/images/model_NAME.png]

Models of ComfyUI's own class need ComfyUI's Python.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange, reduce, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from tqdm import tqdm

from research import clips, demo_model, real_clips
from research.small_models import DISTILLED_LEVELS, MODELS, SmallModel, throw_real
from research.train_demo import Task

SEED = 1
PROMPTS = (
    "circle one red static right dark",
    "square one blue slow right light",
    "circle one yellow fast right dark",
    "triangle one green fast down light",
    "square few multi slow mixed stripes",
    "circle few red fast left checker",
    "square many white static right dark",
    "circle many multi fast mixed dark",
)
DRAWN = 64  # drawn clips over which the usual change of a prompt is averaged
A_CLASS = 2  # real clips of each class

SCALE = 3  # pixels of the sheet for one pixel of a clip
CAPTION = 16  # pixels of the sheet above each row


@dataclass(frozen=True)
class Sampling:
    """Euler steps along these noise levels, from 1 to 0, with this guidance scale; 1 is without guidance."""

    levels: tuple[float, ...]
    cfg: float


# Model -> name of a list of noise levels -> how the model is sampled with it, as it is meant to be.
SAMPLINGS = {
    "demo": {"simple": Sampling(tuple(demo_model.sigmas(30, shift=8).tolist()), 4.0)},
    "clips": {"simple": Sampling(tuple(demo_model.sigmas(30, shift=3).tolist()), 4.0)},
    "two_streams": {"simple": Sampling(tuple(demo_model.sigmas(20, shift=5).tolist()), 1.0)},
    "distilled": {name: Sampling(levels, 1.0) for name, levels in DISTILLED_LEVELS.items()},
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS, nargs="?", default="demo")
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the model's own")
    parser.add_argument("--image", type=Path, help="file for the contact sheet (default: model_NAME.png)")
    options = parser.parse_args(arguments)
    image = options.image or Path(f"model_{options.name}.png")

    subject = MODELS[options.name]
    model = subject.load(options.checkpoint)
    losses = Task(subject, torch.device("cpu")).validation(model)
    losses = {f"{level:.4g}": round(loss, 4) for level, loss in losses.items()}
    print("validation loss by noise level:", json.dumps(losses))
    if subject.throw is not throw_real:
        for motion, (asked, measured) in motions(subject, model).items():
            print(f"{motion}: asked for {asked:.2f}, measured {measured}")
    sheet(subject, model).save(image, optimize=True)
    print(f"contact sheet: {image}")
    return 0


@torch.inference_mode()
def generate(subject: SmallModel, model: nn.Module, context: Tensor, sampling: Sampling, seed: int = SEED) -> Tensor:
    """Makes a clip from a prompt: (1, 3, frames, height, width), RGB in [-1, 1].

    Args:
        context: (1, tokens, 4096).
        seed: of the noise, which is drawn as ComfyUI does.
    """
    x = torch.randn(subject.latent, generator=torch.Generator().manual_seed(seed))
    contexts = context if sampling.cfg == 1 else torch.cat([context, torch.zeros_like(context)])
    for level, following in pairwise(sampling.levels):
        alike = x.expand(len(contexts), -1, -1, -1, -1)
        told = subject.ask(model, alike, torch.full((len(contexts),), level), contexts)
        x = x + (following - level) * torch.lerp(told[-1:], told[:1], sampling.cfg)
    return clips.decode(x).clamp(-1, 1)


def motions(subject: SmallModel, model: nn.Module) -> dict[str, tuple[float, list[float]]]:
    """How fast a single shape moves in the direction that the prompt asks for, by motion word.

    Uses the last of the model's lists of noise levels.

    Returns:
        For each motion word the speed that is asked for, and four measured speeds, one for each direction; in latent
        pixels per latent frame.
    """
    words = clips.SLOTS[clips.MOTION]
    headings = dict(zip(clips.SLOTS[clips.DIRECTION], clips.HEADINGS, strict=False))  # all directions but mixed
    scale = subject.latent[-1] / clips.SIZE  # in a larger picture, shapes are larger and faster
    found = {word: (scale * speed, []) for word, speed in zip(words, clips.SPEEDS, strict=True)}
    sampling = list(SAMPLINGS[subject.name].values())[-1]
    asked = [(motion, heading) for motion in words for heading in headings]
    for seed, (motion, heading) in enumerate(tqdm(asked, desc="motion")):
        context = demo_model.prompt_context(f"circle one red {motion} {heading} dark")
        steps = velocities(generate(subject, model, context, sampling, seed))
        along = (steps @ torch.tensor(headings[heading])).abs().median()  # either direction: fast shapes bounce
        found[motion][1].append(round(along.item(), 2))
    return found


def velocities(clip: Tensor) -> Tensor:
    """How the centre of the shape moves, in a clip of one shape on a plain background.

    Measured from latent frame to latent frame, because the demo model does not move shapes within a latent frame.

    Args:
        clip: (1, 3, frames, height, width).

    Returns:
        (frames / 2 - 1, 2): x and y in latent pixels per latent frame, bounces included.
    """
    ground = clip[0].flatten(1).median(dim=1).values
    cover = (clip[0] - ground[:, None, None, None]).abs().sum(0)
    cover = (cover - 0.1 * cover.amax()).clamp(min=0)  # a generated background is not quite even
    cover = cover / cover.sum(dim=(1, 2), keepdim=True)
    height, width = cover.shape[1:]
    x, y = (torch.arange(length) / 2 for length in (width, height))
    middle = torch.stack([cover.sum(1) @ x, cover.sum(2) @ y], dim=1)
    return reduce(middle, "(t two) xy -> t xy", "mean", two=2).diff(dim=0)


def sheet(subject: SmallModel, model: nn.Module) -> Image.Image:
    """The sheet for a model with word prompts: for each prompt every second frame, and how much it changes."""
    rows = of_real_clips if subject.throw is throw_real else of_drawn_clips
    pictures = [_row(*row) for row in rows(subject, model)]
    whole = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)))
    for place, picture in enumerate(pictures):
        whole.paste(picture, (0, place * picture.height))
    return whole


def of_drawn_clips(subject: SmallModel, model: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """For each of PROMPTS, a caption and the clips that the model makes, one for each list of noise levels."""
    _, _, frames, size, _ = subject.latent
    samplings = SAMPLINGS[subject.name]
    for prompt in tqdm(PROMPTS, desc="contact sheet"):
        context = demo_model.prompt_context(prompt)
        made = [generate(subject, model, context, sampling) for sampling in samplings.values()]
        words = clips.words_of(prompt).expand(DRAWN, -1)
        drawn = clips.draw(words, torch.Generator().manual_seed(SEED), frames, size)
        # A single list of noise levels needs no name.
        names = [f"{name} " for name in samplings] if len(samplings) > 1 else [""]
        changes = [f"{name}{real_clips.change(clip):.1f}%" for name, clip in zip(names, made, strict=True)]
        told = f"{prompt}:  {', '.join(changes)} change per frame, drawn clips {real_clips.change(drawn):.1f}%"
        yield told, made


def of_real_clips(subject: SmallModel, model: nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """For some clips of each class, a caption, the clip that the model makes, and the nearest part of the real clip.

    Raises:
        PackageNotFoundError, KeyError: see `real_clips.clip`.
    """
    classes = real_clips.classes()
    numbers = {each: [number for number, its in enumerate(classes) if its == each] for each in real_clips.CLASSES}
    # Far apart in the list, because neighbours are alike.
    chosen = [(its[len(its) * place // A_CLASS], each) for each, its in numbers.items() for place in range(A_CLASS)]
    (sampling,) = SAMPLINGS[subject.name].values()
    for number, each in tqdm(chosen, desc="contact sheet"):
        made = generate(subject, model, real_clips.context(number)[None], sampling)
        real = nearest(real_clips.clip(number), made)
        told = f"clip {number}, {each}:  {real_clips.change(made):.1f}% change per frame; beneath: the real one, "
        yield f"{told}{real_clips.change(real):.1f}%", [made, real]


def nearest(whole: Tensor, made: Tensor) -> Tensor:
    """The part of a real clip (3, its frames, height, width) that is nearest to a made clip, in that clip's shape."""
    stretches = whole.unfold(1, made.shape[2], 1).permute(1, 0, 4, 2, 3)
    errors = (stretches - made).square().mean(dim=(1, 2, 3, 4))
    return stretches[errors.argmin()][None]


def _row(caption: str, shown: list[Tensor]) -> Image.Image:
    """Clips below each other, under a caption."""
    frames = torch.cat([rearrange((clip[0, :, ::2] + 1) * 127.5, "c t h w -> h (t w) c") for clip in shown])
    pixels = repeat(frames.round().byte(), "h w c -> (h dy) (w dx) c", dy=SCALE, dx=SCALE)
    pictures = Image.fromarray(pixels.numpy())
    row = Image.new("RGB", (pictures.width, pictures.height + CAPTION), "white")
    row.paste(pictures, (0, CAPTION))
    ImageDraw.Draw(row).text((3, 1), caption, fill="black", font=ImageFont.load_default(11))
    return row


if __name__ == "__main__":
    sys.exit(main())
