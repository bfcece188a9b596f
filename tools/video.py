"""Short videos as animated WEBP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor


def frames_of(video: Tensor) -> list[Image.Image]:
    """Of (frames, height, width, 3) in [0, 1], 8 bits a colour."""
    return [Image.fromarray(frame) for frame in (video.clamp(0, 1) * 255).round().byte().cpu().numpy()]


def write_webp(frames: Sequence[Image.Image], path: Path, fps: float, **how: Any) -> None:
    """As Pillow saves them: with a little loss that makes them small, unless `how` says otherwise."""
    first, *rest = frames
    options = {"quality": 90} | how
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **options)
