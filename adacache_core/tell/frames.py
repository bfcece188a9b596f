"""Two videos frame by frame: PSNR, and how much of the motion is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# dB. Equal frames have infinite PSNR, which would make every mean over frames infinite: they count as this.
# For comparison, one step of 8 bits in one colour of one pixel of 16 x 16 gives 77 dB.
PSNR_MAX = 100.0


def psnr(reference: Tensor, changed: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame: -10 log10(mean squared difference).

    Args:
        reference, changed: (frames, ...), in any order of the other dimensions, with values from 0 to 1.

    Returns:
        (frames,) in dB; inf where two frames are equal.
    """
    return -10 * torch.log10((reference - changed).square().flatten(1).mean(dim=1))


def motion(video: Tensor) -> float:
    """Mean absolute difference of neighbouring frames, in the units of the values; 0 if there is one frame.

    Args:
        video: (frames, ...).
    """
    return video.diff(dim=0).abs().mean().item() if len(video) > 1 else 0.0


def motion_kept(reference: Tensor, changed: Tensor) -> float:
    """`motion` of `changed` over `motion` of `reference`.

    Args:
        reference, changed: (frames, ...).

    Returns:
        1 if both move as much, or neither moves; inf if only `changed` moves.
    """
    return share_kept(motion(reference), motion(changed))


def share_kept(before: float, after: float) -> float:
    """`after` over `before`, two motions; see `motion_kept`."""
    if before == 0:
        return 1.0 if after == 0 else math.inf
    return after / before
