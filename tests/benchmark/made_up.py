"""Made-up records for tests."""

from typing import Any

from research.benchmark.records import PLAIN, Record


def record(method: str, **fields: Any) -> Record:
    """A record of this method; all other fields have defaults."""
    same = {
        "model": "demo",
        "condition": "euler 30, shift 3, cfg 4",
        "setting": "1",
        "motion_class": "slow",
        "seed": 1,
        "library": "diffusers",
        "work": 0.5,
        "blocks": 0.5,
        "time": 0.5,
        "psnr": 30.0,
        "worst_frame": 25.0,
        "ssim": 0.9,
        "lpips": 0.1,
        "motion_kept": 1.0,
        "closeness": 20.0,
        "bytes": 1000,
    }
    return Record(method=method, **same | fields)


def videos(method: str, *psnrs: float, **fields: Any) -> list[Record]:
    """A record of each of these videos, whose seeds are 1, 2, ..."""
    return [record(method, seed=seed, psnr=psnr, **fields) for seed, psnr in enumerate(psnrs, 1)]


def plain(**fields: Any) -> Record:
    """The record of the plain video itself."""
    same = {"work": 1.0, "blocks": 1.0, "time": 1.0, "psnr": 50.0, "worst_frame": 50.0, "ssim": 1.0, "lpips": 0.0}
    return record(PLAIN, **{"setting": "", "closeness": 100.0, "bytes": 0} | same | fields)
