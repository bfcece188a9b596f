"""What a checkpoint of the demo model can do: a contact sheet, how true its motion is, its validation loss.

    python -m tools.demo_sheet [CHECKPOINT] [--image docs/images/demo_model.png]

Knows how to look at clips. Trains nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from einops import rearrange, reduce, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from tools import clips, demo_model
from tools.train_demo import prompt_tokens, validation_loss

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
STEPS, CFG, SEED = 30, 4.0, 1
DRAWN = 64  # clips that a prompt's usual change is the mean of

SCALE = 3  # pixels of the sheet for a pixel of a clip
CAPTION = 16  # pixels of the sheet above each row


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", default=demo_model.SHIPPED)
    parser.add_argument("--image", type=Path, default=Path("demo_model.png"), help="file for the contact sheet")
    options = parser.parse_args(arguments)

    model = demo_model.load(checkpoint=options.checkpoint)
    losses = validation_loss(model, prompt_tokens().to(model.device))
    print("validation loss by noise level:", json.dumps({level: round(loss, 3) for level, loss in losses.items()}))
    for motion, measured in motions(model).items():
        print(f"{motion}: asked for {clips.SPEEDS[clips.SLOTS[clips.MOTION].index(motion)]}, measured {measured}")
    sheet(model).save(options.image, optimize=True)
    print(f"contact sheet: {options.image}")
    return 0


def generate(model: torch.nn.Module, prompt: str, seed: int = SEED) -> Tensor:
    """A clip of the model, (1, 3, 16, 32, 32), RGB in [-1, 1]."""
    latent, _ = demo_model.sample(model, prompt, seed, STEPS, CFG)
    return clips.decode(latent).clamp(-1, 1)


def motions(model: torch.nn.Module) -> dict[str, list[float]]:
    """How fast a single shape moves where it was told to, by motion word.

    Returns:
        For each word four speeds, one for each heading, along its axis; latent pixels per latent frame.
    """
    found: dict[str, list[float]] = {}
    headings = dict(zip(clips.SLOTS[clips.DIRECTION], clips.HEADINGS, strict=False))  # all but mixed
    asked = [(motion, heading) for motion in clips.SLOTS[clips.MOTION] for heading in headings]
    for seed, (motion, heading) in enumerate(tqdm(asked, desc="motion")):
        steps = velocities(generate(model, f"circle one red {motion} {heading} dark", seed))
        along = (steps @ torch.tensor(headings[heading])).abs().median()  # either way: fast shapes bounce
        found.setdefault(motion, []).append(round(along.item(), 2))
    return found


def velocities(clip: Tensor) -> Tensor:
    """How the middle of what differs from the ground moves, in a clip of one shape on plain ground.

    From latent frame to latent frame: within one, the demo model lets shapes stand still.

    Args:
        clip: (1, 3, frames, height, width).

    Returns:
        (frames / 2 - 1, 2), x and y, latent pixels per latent frame; those of a bounce included.
    """
    ground = clip[0].flatten(1).median(dim=1).values
    cover = (clip[0] - ground[:, None, None, None]).abs().sum(0)
    cover = (cover - 0.1 * cover.amax()).clamp(min=0)  # a generated ground is not quite even
    cover = cover / cover.sum(dim=(1, 2), keepdim=True)
    height, width = cover.shape[1:]
    x, y = (torch.arange(length) / 2 for length in (width, height))
    middle = torch.stack([cover.sum(1) @ x, cover.sum(2) @ y], dim=1)
    return reduce(middle, "(t two) xy -> t xy", "mean", two=2).diff(dim=0)


def change(clip: Tensor) -> float:
    """Mean absolute difference of neighbouring frames, in percent of the range of a colour."""
    return 50 * clip.diff(dim=2).abs().mean().item()


def sheet(model: torch.nn.Module) -> Image.Image:
    """A row for each of PROMPTS: every other frame, how much it moves, and how much drawn clips of it move."""
    rows = []
    for prompt in tqdm(PROMPTS, desc="contact sheet"):
        clip = generate(model, prompt)
        drawn = clips.draw(clips.words_of(prompt).expand(DRAWN, -1), torch.Generator().manual_seed(SEED))
        rows.append(_row(clip, f"{prompt}:  {change(clip):.1f}% change per frame, drawn clips {change(drawn):.1f}%"))
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for place, row in enumerate(rows):
        whole.paste(row, (0, place * row.height))
    return whole


def _row(clip: Tensor, caption: str) -> Image.Image:
    frames = rearrange((clip[0, :, ::2] + 1) * 127.5, "c t h w -> h (t w) c").round().byte()
    pixels = repeat(frames, "h w c -> (h dy) (w dx) c", dy=SCALE, dx=SCALE)
    pictures = Image.fromarray(pixels.numpy())
    row = Image.new("RGB", (pictures.width, pictures.height + CAPTION), "white")
    row.paste(pictures, (0, CAPTION))
    ImageDraw.Draw(row).text((3, 1), caption, fill="black", font=ImageFont.load_default(11))
    return row


if __name__ == "__main__":
    sys.exit(main())
