"""How far a cached video is from the uncached one: PSNR, SSIM, ST-LPIPS, motion kept, closeness of the latents.

Videos are (frames, height, width, 3), RGB in [0, 1], in their original size: on enlarged frames, SSIM would differ.
The only file that is read is the weights of ST-LPIPS.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from einops import rearrange
from kornia.metrics import ssim as ssim_map
from torch import Tensor
from torch.nn import functional

from adacache_core.closeness import closeness as measured
from adacache_core.tell.frames import PSNR_MAX, motion_kept, psnr

# The most that a frame counts where figures are averaged over videos. Beyond it nobody sees a difference, and one video
# with hardly any skipped step would outweigh ten bad ones.
PSNR_SEEN = 50.0  # dB

CLOSENESS_MAX = 100.0  # dB; equal latents count as this, for the same reason as PSNR_MAX

# Wang et al. 2004: a Gaussian window of 11 x 11 pixels with sigma 1.5. It is used only where it fits into the frame
# (6 x 6 places in 16 x 16), without padding.
SSIM_WINDOW = 11


LPIPS_SIZE = 128  # pixels; with 32 x 32 the last three layers would have only 4 x 4 places
LPIPS_EVERY = 4  # only every 4th frame: neighbours hardly differ, and a frame takes 15 ms on one core
LPIPS_WEIGHTS = "STLPIPS_WEIGHTS"  # environment variable


@dataclass(frozen=True)
class Quality:
    """One video against its reference.

    Attributes:
        psnr: dB, mean over frames; each frame counts at most the cap.
        ssim: mean over frames, colours and places; 1 is equal.
        motion_kept: mean absolute difference of neighbouring frames over that of the reference; 1 is equal.
        worst_frame: lowest PSNR of a frame, dB, at most the cap.
    """

    psnr: float
    ssim: float
    motion_kept: float
    worst_frame: float


def compare(plain: Tensor, cached: Tensor, cap: float = PSNR_MAX) -> Quality:
    """Compares `cached` with `plain`, (frames, height, width, 3) each.

    Pixels that are not finite count as black, so that a method that diverged has figures too.

    Args:
        cap: the most that the PSNR of a frame counts, dB.

    Raises:
        ValueError: the shapes differ, or a frame is smaller than SSIM's window.
    """
    _same_shape(plain, cached)
    plain, cached = _finite(plain).clamp(0, 1), _finite(cached).clamp(0, 1)
    of_frames = psnr(plain, cached).clamp(max=cap)
    return Quality(of_frames.mean().item(), ssim(plain, cached), motion_kept(plain, cached), of_frames.min().item())


def _same_shape(plain: Tensor, cached: Tensor) -> None:
    if plain.shape != cached.shape:
        raise ValueError(f"videos of {tuple(plain.shape)} and {tuple(cached.shape)} cannot be compared")


def _finite(numbers: Tensor) -> Tensor:
    return numbers.double().nan_to_num(0, 0, 0)


def ssim(plain: Tensor, cached: Tensor) -> float:
    """Structural similarity, mean over frames, colours and places; 1 is equal."""
    if min(plain.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"frames of {plain.shape[1]} x {plain.shape[2]} are smaller than SSIM's window, {SSIM_WINDOW}")
    images = (rearrange(video, "t h w c -> t c h w") for video in (plain, cached))
    return ssim_map(*images, SSIM_WINDOW, eps=0.0, padding="valid").mean().item()


def closeness(plain: Tensor, cached: Tensor) -> float:
    """Closeness of latents (`adacache_core.closeness`) in dB, at most CLOSENESS_MAX.

    Numbers that are not finite count as 0.

    Args:
        plain, cached: finished latents of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(plain, cached)
    return min(measured(_finite(plain), _finite(cached)), CLOSENESS_MAX)


def lpips(plain: Tensor, cached: Tensor) -> float:
    """ST-LPIPS, mean over every LPIPS_EVERY-th frame; 0 is equal, larger is further apart.

    This is *not* the original LPIPS (Zhang et al. 2018), and its numbers cannot be compared with those. It is the
    shift-tolerant version of Ghildyal and Liu (ECCV 2022, AlexNet), whose package contains its weights. The videos of
    small models have fewer pixels than its network is made for, so they are first enlarged bicubically to
    LPIPS_SIZE x LPIPS_SIZE.

    The features of the last plain video are kept for the next call with the same tensor: do not change it in between.

    Args:
        plain, cached: (frames, height, width, 3), RGB in [0, 1].

    Raises:
        ValueError: the shapes differ.
        ModuleNotFoundError: see `lpips_weights`.
    """
    _same_shape(plain, cached)
    weights = _lpips_network()
    with torch.inference_mode():
        distances = [
            functional.conv2d((before - after).square(), weights[f"lin{layer}.model.1.weight"]).mean().item()
            for layer, (before, after) in enumerate(zip(_features_of_plain(plain), _features(cached), strict=True))
        ]
    return sum(distances)


def lpips_weights() -> Path:
    """The file of the weights: from the environment variable STLPIPS_WEIGHTS, else from the package stlpips-pytorch.

    The variable is for ComfyUI's Python, into which we install nothing: a process that has the package sets it.

    Raises:
        ModuleNotFoundError: there is neither.
    """
    if LPIPS_WEIGHTS in os.environ:
        return Path(os.environ[LPIPS_WEIGHTS])
    package = find_spec("stlpips_pytorch")
    if package is None:
        raise ModuleNotFoundError(f"ST-LPIPS needs the package stlpips-pytorch, or the variable {LPIPS_WEIGHTS}")
    return Path(package.submodule_search_locations[0], "weights", "vST0.0", "alex_shift_tolerant.pth")


@cache
def _lpips_network() -> dict[str, Tensor]:
    """Name -> weights, including blur filters and the scale of the input.

    The package's own code is not used: it imports torchvision, IPython and torchsummary without need, and the licence
    of its blur forbids commercial use.
    """
    return torch.load(lpips_weights(), map_location="cpu", weights_only=True)


# Hundreds of cached videos are compared with one plain video. The cache finds a tensor by its identity.
@lru_cache(maxsize=1)
def _features_of_plain(video: Tensor) -> list[Tensor]:
    return _features(video)


def _features(video: Tensor) -> list[Tensor]:
    """Unit-length features of every LPIPS_EVERY-th frame, of five layers: (frames, channels, height, width) each."""
    weights = _lpips_network()

    def convolved(images: Tensor, name: str, padding: int) -> Tensor:
        return functional.conv2d(images, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def halved(images: Tensor, name: str) -> Tensor:
        padded = functional.pad(images, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, weights[f"{name}.filt"], stride=2, groups=images.shape[1])

    images = rearrange(_finite(video[::LPIPS_EVERY]).float().cpu(), "t h w c -> t c h w")
    images = functional.interpolate(images, (LPIPS_SIZE, LPIPS_SIZE), mode="bicubic").clamp(0, 1)
    images = (2 * images - 1 - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
    first = halved(convolved(images, "net.slice1.0", 2), "net.slice1.1").relu()
    second = halved(functional.max_pool2d(first, 3, stride=1), "net.slice2.4")
    second = convolved(second, "net.slice2.5", 2).relu()
    third = halved(functional.max_pool2d(second, 3, stride=1), "net.slice3.8")
    third = convolved(third, "net.slice3.9", 1).relu()
    fourth = convolved(third, "net.slice4.11", 1).relu()
    fifth = convolved(fourth, "net.slice5.13", 1).relu()
    return [layer / (layer.norm(dim=1, keepdim=True) + 1e-10) for layer in (first, second, third, fourth, fifth)]
