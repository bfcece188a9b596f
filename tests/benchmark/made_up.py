"""Records that nobody measured, to calculate with."""

from typing import Any

from tools.benchmark.records import Record


def record(method: str, **fields: Any) -> Record:
    """A record of this method; what is not named is the same for all."""
    same = {
        "setting": "1",
        "library": "diffusers",
        "sampler": "euler",
        "steps": 30,
        "motion_class": "slow",
        "seed": 1,
        "computed_fraction": 0.5,
        "block_fraction": 0.5,
        "wall_ratio": 0.5,
        "psnr": 30.0,
        "ssim": 0.9,
        "motion_kept": 1.0,
        "bytes": 1000,
    }
    return Record(method, **same | fields)
