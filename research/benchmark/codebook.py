"""How many of 100 steps the published 100-step table computes, as arithmetic: no model, only changes of known size."""

from __future__ import annotations

import torch
from torch import Tensor

from adacache_core import FAST_30, FAST_100, CacheConfig, Codebook
from research.simulate import simulate
from tools.markdown import table

from .ablation import PAPER_PLAIN_SECONDS
from .made import sentence

TABLES = {"fast, 100 steps": FAST_100, "fast, 30 steps": FAST_30}

# What the paper reports at 100 steps: ablations, Open-Sora 720p, 2 s, 32 videos, one A100. Seconds and VBench in %.
# Of the two tables beside the published one it prints the rates, not the thresholds.
PUBLISHED_100 = {
    "the published table": (89.53, 83.40),
    "the published table, MoReg": (93.50, 83.50),
    "rates 8, 6, 4, 2, 1": (143.87, 83.94),
    "rates 2, 1": (274.30, 84.12),
}

NORM = 2000  # of the probe; changes per step are multiples of 2 / NORM


def drifting(change: float, steps: int) -> Tensor:
    """A probe residual whose relative change is `change` per step, over any distance: a window of ones that moves on.

    Args:
        change: a multiple of 2 / NORM, at most 2 over the largest rate.

    Returns:
        (steps, 1, 2 * NORM, 1); its L1 norm is NORM at every step.
    """
    ring = torch.zeros(2 * NORM)
    ring[:NORM] = 1
    return torch.stack([ring.roll(round(step * change * NORM / 2)) for step in range(steps)])[:, None, :, None]


def computed_steps(table: Codebook, change: float) -> int:
    """How many of the table's own number of steps are computed when the metric stays at `change`."""
    return simulate(drifting(change, table.steps), CacheConfig(table, probe_stride=1)).computed


def codebook_100() -> dict:
    """One row per entry of a table: the metric within its bounds, and what is computed of all steps."""
    return {name: _rows(table) for name, table in TABLES.items()}


def _rows(table: Codebook) -> list[dict]:
    rows = []
    low = 0.0
    for number, (threshold, rate) in enumerate(table.entries, 1):
        high = threshold if number < len(table.entries) else None
        inside = (low + threshold) / 2 if high else low + 0.1
        computed = computed_steps(table, round(inside, 3))
        speedup = round(table.steps / computed, 2)
        rows.append({"from": low, "below": high, "rate": rate, "computed": computed, "counted_speedup": speedup})
        low = threshold
    return rows


def section(stored: dict) -> str:
    """The page's part.

    Args:
        stored: what `codebook_100` returned, and `made`: how.
    """
    heads = ("table", "metric from", "below", "rate", "computed", "counted speed-up")
    rows = [
        (
            name,
            f"{row['from']:g}",
            "–" if row["below"] is None else f"{row['below']:g}",
            row["rate"],
            f"{row['computed']} of {book.steps}",
            f"{row['counted_speedup']:.2f}",
        )
        for name, book in TABLES.items()
        for row in stored[name]
    ]
    published = [
        (
            name,
            f"{seconds:.2f}",
            f"{PAPER_PLAIN_SECONDS / seconds:.2f}",
            f"{int(100 * seconds / PAPER_PLAIN_SECONDS)} of 100",
            f"{vbench:.2f}",
        )
        for name, (seconds, vbench) in PUBLISHED_100.items()
    ]
    return f"""\
## The 100-step codebook

{sentence(stored["made"])}

How many steps are computed if the metric stays within one row of the table, with the first and last steps that are
always computed. This is arithmetic: `research/simulate.py` on a probe that changes by a known amount. In a video the
metric moves between rows.

{table(heads, rows)}

The paper at 100 steps (ablations, Open-Sora 720p, 2 s, 32 videos, one A100). It does not say how many steps were
computed. The table shows the most that can have been, if reused steps took no time at all.

{table(("codebook", "s", "speed-up", "computed at most", "VBench %"), published)}
"""
