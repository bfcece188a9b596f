"""Clips made by real video models: animated WEBPs from two packages of ComfyUI's template media (MIT).

    python -m research.real_clips

writes their list again: the files, how much each changes, and its class. It needs the packages, in any versions that
have the files (noxfile.py pins a pair); reading the list needs no package. The prompt of a clip is its number.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

PACKAGES = tuple(f"comfyui-workflow-templates-media-assets-{number}" for number in ("01", "02"))

LIST = Path(__file__).parent / "checkpoints" / "clips.json"

FRAMES, SIZE = 16, 32  # pixels of a clip in training, as of a drawn clip
LEAST = 20  # least frames of a WEBP that is used

# Each class has a quarter of all clips, from those that change least to those that change most.
CLASSES = ("still", "calm", "lively", "wild")

TOKENS, WIDTH, SPREAD = 6, 4096, 0.25  # shape and standard deviation of a prompt's embedding, as for the demo model


def main() -> int:
    found = sorted((path for path in _installed().values() if _frames(path) >= LEAST), key=lambda path: path.name)
    changes = torch.tensor([change(_read(path)) for path in found])
    ranks = changes.argsort().argsort().tolist()
    rows = [
        {"file": path.name, "class": CLASSES[rank * len(CLASSES) // len(found)], "change": round(percent, 3)}
        for path, rank, percent in zip(found, ranks, changes.tolist(), strict=True)
    ]
    LIST.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    print(f"{len(rows)} clips: {LIST}")
    return 0


@cache
def listed() -> list[dict[str, Any]]:
    """All clips by number, each with `file`, `class` and `change` (see the function `change`)."""
    return json.loads(LIST.read_text())


def classes() -> list[str]:
    """The class of each clip, by how much its frames change."""
    return [row["class"] for row in listed()]


@cache
def clip(number: int) -> Tensor:
    """A whole clip, in the size for training: (3, its frames, 32, 32), RGB in [-1, 1].

    Raises:
        PackageNotFoundError: a package is not installed.
        KeyError: the installed versions have no such file.
    """
    return _read(_installed()[listed()[number]["file"]])


@cache
def _installed() -> dict[str, Path]:
    """The WEBPs in the packages, by name."""
    found = [Path(file.locate()) for package in PACKAGES for file in files(package) or ()]
    return {path.name: path for path in found if path.suffix == ".webp"}


def _frames(path: Path) -> int:
    with Image.open(path) as picture:
        return getattr(picture, "n_frames", 1)


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


def draw(numbers: Tensor, dice: torch.Generator, frames: int = FRAMES) -> Tensor:
    """This many successive frames of each of these clips, from a random place.

    Returns:
        (batch, 3, frames, 32, 32), RGB in [-1, 1], on the device of `dice`.

    Raises:
        PackageNotFoundError, KeyError: see `clip`.
    """
    cut = []
    for number in numbers.tolist():
        whole = clip(number)
        begin = int(torch.randint(whole.shape[1] - frames + 1, (), generator=dice, device=dice.device))
        cut.append(whole[:, begin : begin + frames])
    return torch.stack(cut).to(dice.device)


def change(pixels: Tensor) -> float:
    """Mean absolute difference of neighbouring frames, in percent of the range of a colour.

    Args:
        pixels: of a clip, (..., frames, height, width), RGB in [-1, 1].
    """
    return 50 * pixels.diff(dim=-3).abs().mean().item()


@cache
def context(number: int) -> Tensor:
    """The embedding of a clip's number, (6, 4096). It is drawn with the number as seed, so nothing is stored."""
    return SPREAD * torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(number))


if __name__ == "__main__":
    sys.exit(main())
