"""Short videos as animated WEBP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor


def frames_of(video: Tensor) -> list[Image.Image]:
    """Images of 8 bits per colour, from (frames, height, width, 3) in [0, 1]."""
    return [Image.fromarray(frame) for frame in (video.clamp(0, 1) * 255).round().byte().cpu().numpy()]


def write_webp(frames: Sequence[Image.Image], path: Path, fps: float, **how: Any) -> None:
    """Saves an animated WEBP with Pillow. `how` are Pillow's options; by default a little loss keeps the file small."""
    first, *rest = frames
    options = {"quality": 90} | how
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **options)
