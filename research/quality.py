"""How far a cached video is from the uncached one: PSNR, SSIM, ST-LPIPS, motion kept, closeness of the latents.

Videos are (frames, height, width, 3), RGB in [0, 1], as large as they were made: enlarged by repeated pixels, SSIM
would be another number. Draws nothing, and reads no file but the weights of ST-LPIPS.
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

# Where figures are averaged over videos: beyond it nobody sees a difference, and one video that was hardly skipped
# would outweigh ten that were spoilt.
PSNR_SEEN = 50.0  # dB

CLOSENESS_MAX = 100.0  # dB, of a latent that is equal, for the same reason as PSNR_MAX

# Wang et al. 2004: a Gaussian of 11 x 11 with sigma 1.5, and only where it fits into the frame
# (6 x 6 places on 16 x 16). The window needs no padding, so nothing is invented at the borders.
SSIM_WINDOW = 11


LPIPS_SIZE = 128  # pixels; of 32 x 32 its last three layers would see 4 x 4 places
LPIPS_EVERY = 4  # frames; neighbours hardly differ, and a frame takes 15 ms of a core
LPIPS_WEIGHTS = "STLPIPS_WEIGHTS"  # environment variable


@dataclass(frozen=True)
class Quality:
    """One video against its reference.

    Attributes:
        psnr: dB, mean over frames, each at most the cap.
        ssim: mean over frames, colours and places; 1 is equal.
        motion_kept: mean absolute difference of neighbouring frames over that of the reference; 1 is equal.
        worst_frame: PSNR of the frame that is furthest from the reference's, dB, at most the cap.
    """

    psnr: float
    ssim: float
    motion_kept: float
    worst_frame: float


def compare(plain: Tensor, cached: Tensor, cap: float = PSNR_MAX) -> Quality:
    """All four measures of `cached` against `plain`, (frames, height, width, 3) each, at least 2 frames.

    A pixel that is no finite number is black, so that a method that ran away has figures too.

    Args:
        cap: dB, the most that the PSNR of a frame counts.

    Raises:
        ValueError: the shapes differ, or a frame is smaller than the window of SSIM.
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
    """Structural similarity per frame and colour, mean over all."""
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
    """ST-LPIPS, mean over every LPIPS_EVERY-th frame; 0 is equal, larger is further.

    This is *not* the original LPIPS (Zhang et al. 2018), and its numbers are not comparable with that one's: it is the
    shift-tolerant one of Ghildyal and Liu (ECCV 2022, AlexNet trunk), whose weights can be had without a download
    beside the package. Videos of small models have fewer pixels than its network was made for; they are enlarged
    bicubically to LPIPS_SIZE x LPIPS_SIZE first.

    The features of the last plain video are kept for the next call with that same tensor: do not write to it between.

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
    """The file of the weights: what the environment variable STLPIPS_WEIGHTS names, else that of stlpips-pytorch.

    So a process in an environment to which nothing may be added, a host's, can be told by one that has the package.

    Raises:
        ModuleNotFoundError: neither is there.
    """
    if LPIPS_WEIGHTS in os.environ:
        return Path(os.environ[LPIPS_WEIGHTS])
    package = find_spec("stlpips_pytorch")
    if package is None:
        raise ModuleNotFoundError(f"ST-LPIPS needs the package stlpips-pytorch, or {LPIPS_WEIGHTS} in the environment")
    return Path(package.submodule_search_locations[0], "weights", "vST0.0", "alex_shift_tolerant.pth")


@cache
def _lpips_network() -> dict[str, Tensor]:
    """The weights by their names; blur filters and the scale of the input are among them.

    The package's own code is not run: it imports torchvision, IPython and torchsummary without using them, and its
    blur is under a licence that forbids commercial use.
    """
    return torch.load(lpips_weights(), map_location="cpu", weights_only=True)


# Hundreds of cached videos meet one plain one. Tensors are keys by identity.
@lru_cache(maxsize=1)
def _features_of_plain(video: Tensor) -> list[Tensor]:
    return _features(video)


def _features(video: Tensor) -> list[Tensor]:
    """What its five layers see of every LPIPS_EVERY-th frame: (frames, channels, height, width), of length 1."""
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
