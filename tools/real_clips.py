"""Real generated clips to learn from: the animated WEBPs in two packages of ComfyUI's template media (MIT).

    pip install comfyui-workflow-templates-media-assets-01==0.1.48 comfyui-workflow-templates-media-assets-02==0.1.24

Knows where they are, how they are cut and how lively each is. A clip's number is its prompt. Knows no model.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

PACKAGES = tuple(f"comfyui-workflow-templates-media-assets-{number}" for number in ("01", "02"))

FRAMES, SIZE = 16, 32  # of a clip as it is learned, in pixels: those of a drawn one
LEAST = 20  # frames of a WEBP that is taken

# A quarter of all clips in each, from the stillest to the liveliest.
CLASSES = ("still", "calm", "lively", "wild")

TOKENS, WIDTH, SPREAD = 6, 4096, 0.25  # of a prompt's embedding: shape and standard deviation of the demo model's


def names() -> list[Path]:
    """The files, in the order of their numbers.

    Raises:
        PackageNotFoundError: a package is not installed here.
    """
    found = [file.locate() for package in PACKAGES for file in files(package) or () if file.suffix == ".webp"]
    return [Path(path) for path in sorted(found, key=lambda path: Path(path).name) if _frames(path) >= LEAST]


def _frames(path: Path) -> int:
    with Image.open(path) as picture:
        return getattr(picture, "n_frames", 1)


@cache
def all_clips() -> tuple[Tensor, ...]:
    """Every clip whole, at the size that is learned: (3, its frames, 32, 32), RGB in [-1, 1]."""
    return tuple(map(_read, names()))


def _read(path: Path) -> Tensor:
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        square = (left, top, left + side, top + side)
        frames = [
            frame.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX, box=square)
            for frame in ImageSequence.Iterator(picture)
        ]
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return pixels.permute(3, 0, 1, 2).float() / 127.5 - 1


def draw(numbers: Tensor, dice: torch.Generator, frames: int) -> Tensor:
    """As many neighbouring frames of each of these clips, from a place that is thrown.

    Returns:
        (batch, 3, frames, 32, 32), RGB in [-1, 1].
    """
    cut = []
    for number in numbers.tolist():
        whole = all_clips()[number]
        begin = int(torch.randint(whole.shape[1] - frames + 1, (), generator=dice, device=dice.device))
        cut.append(whole[:, begin : begin + frames])
    return torch.stack(cut).to(dice.device)


def change(clip: Tensor) -> float:
    """Mean absolute difference of neighbouring frames, in percent of the range of a colour."""
    return 50 * clip.diff(dim=-3).abs().mean().item()


def classes() -> list[str]:
    """The class of each clip, by how much its frames change."""
    changes = torch.tensor([change(clip) for clip in all_clips()])
    place = changes.argsort().argsort()
    return [CLASSES[rank * len(CLASSES) // len(changes)] for rank in place.tolist()]


@cache
def context(number: int) -> Tensor:
    """The embedding of a clip's number, (6, 4096); drawn from it, so nothing is stored."""
    return SPREAD * torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(number))


__all__ = ["CLASSES", "PackageNotFoundError", "all_clips", "change", "classes", "context", "draw", "names"]
