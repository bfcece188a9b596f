"""How far a cached video is from the uncached one: PSNR, SSIM and motion kept. Reads no files, draws nothing.

Videos are (frames, height, width, 3), RGB in [0, 1], at the size of the latent: enlarged by repeated
pixels, SSIM would be another number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from kornia.metrics import ssim as ssim_map
from torch import Tensor

# Of a frame that is equal in both, whose PSNR is infinite and would swallow the mean over frames.
# One step of 8 bits in one colour of one pixel of 16 x 16 is 77 dB.
PSNR_MAX = 100.0  # dB

# Wang et al. 2004: a Gaussian of 11 x 11 with sigma 1.5, and only where it fits into the frame
# (6 x 6 places on 16 x 16). The window needs no padding, so nothing is invented at the borders.
SSIM_WINDOW = 11


@dataclass(frozen=True)
class Quality:
    """One video against its reference.

    Attributes:
        psnr: dB, mean over frames, at most PSNR_MAX.
        ssim: mean over frames, colours and places; 1 is equal.
        motion_kept: mean absolute difference of neighbouring frames over that of the reference; 1 is equal.
    """

    psnr: float
    ssim: float
    motion_kept: float


def compare(plain: Tensor, cached: Tensor) -> Quality:
    """All three measures of `cached` against `plain`, (frames, height, width, 3) each, at least 2 frames.

    Raises:
        ValueError: the shapes differ, or a frame is smaller than the window of SSIM.
    """
    if plain.shape != cached.shape:
        raise ValueError(f"videos of {tuple(plain.shape)} and {tuple(cached.shape)} cannot be compared")
    plain, cached = plain.double().clamp(0, 1), cached.double().clamp(0, 1)
    return Quality(psnr(plain, cached), ssim(plain, cached), motion_kept(plain, cached))


def psnr(plain: Tensor, cached: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, per frame, mean over frames."""
    error = (plain - cached).square().mean(dim=(1, 2, 3))
    return (-10 * torch.log10(error)).clamp(max=PSNR_MAX).mean().item()


def ssim(plain: Tensor, cached: Tensor) -> float:
    """Structural similarity per frame and colour, mean over all."""
    if min(plain.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"frames of {plain.shape[1]} x {plain.shape[2]} are smaller than SSIM's window, {SSIM_WINDOW}")
    images = (rearrange(video, "t h w c -> t c h w") for video in (plain, cached))
    return ssim_map(*images, SSIM_WINDOW, eps=0.0, padding="valid").mean().item()


def motion_kept(plain: Tensor, cached: Tensor) -> float:
    """Motion of `cached` over motion of `plain`; a video that stands still keeps it by standing still."""
    before, after = (video.diff(dim=0).abs().mean().item() for video in (plain, cached))
    if before == 0:
        return 1.0 if after == 0 else float("inf")
    return after / before
