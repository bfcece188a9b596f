"""How fast the probe residual changes: the rate of change of the paper, as the reference computes it."""

from __future__ import annotations

import torch
from torch import Tensor


def change_sums(new: Tensor, old: Tensor) -> Tensor:
    """||old - new||_1 and ||old||_1, summed over everything.

    Sums are taken in float32 whatever the dtype: in float16 they overflow, bfloat16 has 8 bits.

    Args:
        new, old: probe residuals, (batch, tokens, width).

    Returns:
        float32, (2,), on the device of the residuals.
    """
    return torch.stack([(old - new).abs().sum(dtype=torch.float32), old.abs().sum(dtype=torch.float32)])


def change_per_step(sums: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """c = ||p_new - p_old||_1 / ||p_old||_1 / rate.

    Args:
        sums: as `change_sums` returns them, (2,).
        rate: the *planned* distance from p_old to p_new, in steps, as in the reference. The real one differs only
            at the last steps, which are always computed.

    Returns:
        The relative change, and the same per step; 0-dim, in the dtype of `sums`.
    """
    relative = sums[0] / sums[1]
    return relative, relative / rate
