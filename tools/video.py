"""Short videos as animated WEBP without loss, as the host's SaveAnimatedWEBP writes them: out and in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import repeat
from PIL import Image, ImageSequence
from torch import Tensor


def write_webp(video: Tensor, path: Path, fps: float, scale: int = 1) -> None:
    """Writes (frames, height, width, 3) in [0, 1], 8 bits a colour, each pixel `scale` x `scale` times."""
    pixels = repeat((video.clamp(0, 1) * 255).byte(), "t h w c -> t (h dy) (w dx) c", dy=scale, dx=scale)
    first, *rest = (Image.fromarray(frame) for frame in pixels.cpu().numpy())
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), lossless=True, loop=0)


def read_webp(path: Path, width: int) -> Tensor:
    """Frames at their size before they were enlarged.

    Args:
        width: of a frame as the latent has it, in pixels.

    Returns:
        (frames, height, width, 3), float32 in [0, 1].
    """
    with Image.open(path) as image:
        frames, milliseconds = [], []
        for frame in ImageSequence.Iterator(image):
            frames.append(np.array(frame.convert("RGB")))
            milliseconds.append(frame.info["duration"])
    # The encoder writes a frame that equals the one before by showing that one longer.
    ticks = [round(duration / min(milliseconds)) for duration in milliseconds]
    video = torch.from_numpy(np.repeat(np.stack(frames), ticks, axis=0)).float() / 255
    step = video.shape[2] // width
    return video[:, ::step, ::step]
