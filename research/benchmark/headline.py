"""Preset auto on the demo model, asked for the two speed-ups that the paper is known for."""

from __future__ import annotations

import time
from typing import Any

from adacache_core import auto
from research import demo_model
from research.quality import compare
from tools.markdown import table

from .made import sentence
from .videos import CFG, videos

ASKED = ((100, 4.7), (30, 2.24))  # steps, speed-up: of the paper's abstract, and of its table 1

SECTION = """\
## The paper's speed-ups, asked of auto

{made}

The paper is known for a speed-up of 4.7x at 100 steps (Open-Sora 720p). At 30 steps it reports 2.24x, at 24.92 dB
(table 1, Open-Sora 480p). Here preset auto is asked for the same two speed-ups, on the demo model, for one video of
each motion class, at cfg {cfg:g}. PSNR, SSIM and motion compare with the uncached video. The figures of two different
models cannot be compared; this table only shows whether auto reaches the speed-up that it is asked for.

{table}
"""

# Column -> how a row of figures is shown in it.
COLUMNS = {
    "steps": "{steps}",
    "asked": "{asked:g}x",
    "motion class": "{motion_class}",
    "computed": "{computed} of {steps}",
    "counted": "{counted:.2f}x",
    "measured": "{measured:.2f}x",
    "PSNR": "{psnr:.1f}",
    "SSIM": "{ssim:.3f}",
    "motion kept": "{motion_kept:.2f}",
}


def measure_headline() -> dict[str, Any]:
    """One row for each number of steps and motion class. Times are processor times of this process."""
    model = demo_model.load()
    return {"rows": [_row(model, video, *asked) for asked in ASKED for video in videos()]}


def _row(model: Any, video: Any, steps: int, speedup: float) -> dict[str, Any]:
    begin = time.process_time()
    plain, _ = demo_model.sample(model, video.prompt, video.seed, steps, CFG)
    between = time.process_time()
    cached, report = demo_model.sample(model, video.prompt, video.seed, steps, CFG, config=auto(speedup))
    measured = (between - begin) / (time.process_time() - between)
    quality = compare(demo_model.preview(plain), demo_model.preview(cached))
    return {
        "steps": steps,
        "asked": speedup,
        "motion_class": video.motion_class,
        "computed": report.computed,
        "counted": round(report.counted_speedup, 2),
        "measured": round(measured, 2),
        "psnr": round(quality.psnr, 2),
        "ssim": round(quality.ssim, 4),
        "motion_kept": round(quality.motion_kept, 3),
    }


def section(figures: dict[str, Any]) -> str:
    """The section of docs/paper_tables.md, from what `measure_headline` returned and how it was made."""
    rows = ([shown.format(**row) for shown in COLUMNS.values()] for row in figures["rows"])
    return SECTION.format(made=sentence(figures["made"]), cfg=CFG, table=table(COLUMNS, rows))
