"""What AdaCache keeps, measured: `python -m tools.benchmark quality`.

Writes docs/benchmarks.json and, from it, docs/benchmarks.md, so that the page cannot drift from the
numbers. Every comparison is made within one run on one machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from adacache_core import FAST_30, SLOW_30, TUNED_30, CacheConfig, MotionConfig
from tools import demo_model
from tools.quality import compare

from .made import circumstances, sentence

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "benchmarks.json"
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
HEADLINE = "<!-- headline, written by tools.benchmark -->"

STEPS, CFG = 30, 4.0

# Two prompts and seeds per class; none of them was used to tune a table.
PROMPTS = {
    "static": (("triangle one blue static up light", 11), ("circle few white static left dark", 12)),
    "slow": (("circle one green slow left dark", 13), ("square few yellow slow down light", 14)),
    "fast": (("square one red fast up light", 15), ("circle few blue fast right dark", 16)),
    "busy": (("triangle many multi fast mixed stripes", 17), ("circle many yellow fast mixed checker", 18)),
}

SETTINGS = {
    "fast": CacheConfig(FAST_30),
    "fast + MoReg": CacheConfig(FAST_30, MotionConfig()),
    "slow": CacheConfig(SLOW_30),
    "slow + MoReg": CacheConfig(SLOW_30, MotionConfig()),
    "tuned": CacheConfig(TUNED_30),
    "tuned + MoReg": CacheConfig(TUNED_30, MotionConfig()),
}


QUALITY_INTRO = f"""\
{STEPS} Euler steps, cfg {CFG:g}, two prompts a class (busy: fast, many shapes, moving texture), against the uncached
video, on preview RGB: PSNR in dB, SSIM, motion kept (1 is all). *Interval* has the same forced steps (the first, the
last two) and, video by video, as many computed steps, evenly spread. The better PSNR is bold.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["quality"], nargs="?", default="quality")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stored = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    command = f"python -m tools.benchmark quality --threads {arguments.threads}"
    stored["quality"] = {"made": circumstances(command)} | measure_quality()
    RECORDS.write_text(json.dumps(stored, indent=1) + "\n")
    PAGE.write_text(page(stored))
    if "quality" in stored:
        README.write_text(with_headline(README.read_text(), stored["quality"]))
    print(PAGE.read_text())


def measure_quality() -> dict:
    """Every setting on every prompt, and beside each an interval with as many computed steps."""
    model = demo_model.load()
    records = []
    bar = tqdm(total=sum(map(len, PROMPTS.values())) * (1 + 2 * len(SETTINGS)), desc="quality", mininterval=1)
    for motion_class, prompts in PROMPTS.items():
        for prompt, seed in prompts:
            plain = demo_model.preview(demo_model.sample(model, prompt, seed, STEPS, CFG)[0])
            bar.update()
            for setting, config in SETTINGS.items():
                latent, report = demo_model.sample(model, prompt, seed, STEPS, CFG, config)
                even = evenly(report.computed, STEPS)
                baseline, beside = demo_model.sample(model, prompt, seed, STEPS, CFG, schedule=even)
                for method, video, run in (("AdaCache", latent, report), ("interval", baseline, beside)):
                    quality = compare(plain, demo_model.preview(video))
                    records.append(
                        {
                            "method": method,
                            "setting": setting,
                            "sampler": "euler",
                            "steps": STEPS,
                            "motion_class": motion_class,
                            "prompt": prompt,
                            "seed": seed,
                            "computed": run.computed,
                            "measured_speedup": round(run.measured_speedup, 3),
                            "psnr": round(quality.psnr, 3),
                            "ssim": round(quality.ssim, 4),
                            "motion_kept": round(quality.motion_kept, 4),
                        }
                    )
                bar.update(2)
    return {"records": records}


def evenly(computed: int, steps: int) -> set[int]:
    """A fixed interval under our forced steps: the first and the last two, and evenly spread ones between."""
    between = max(computed - 1, 2)
    return {round(index * (steps - 2) / (between - 1)) for index in range(between)} | {steps - 2, steps - 1}


def page(stored: dict) -> str:
    """docs/benchmarks.md from docs/benchmarks.json."""
    parts = ["# Benchmarks\n\nMade by `python -m tools.benchmark` from `benchmarks.json`; not edited by hand.\n"]
    if "quality" in stored:
        parts.append(_quality_section(stored["quality"]))
    return "\n".join(parts)


def _quality_section(quality: dict) -> str:
    records = quality["records"]
    classes = [*PROMPTS, "all"]
    lines = [
        "## Quality on the demo model\n",
        sentence(quality["made"]) + "\n",
        QUALITY_INTRO,
        "| setting | class | computed | PSNR | interval | SSIM | interval | motion kept | interval |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in dict.fromkeys(record["setting"] for record in records):
        for motion_class in classes:
            ours, theirs = (
                _means(
                    record
                    for record in records
                    if (record["method"], record["setting"]) == (method, setting)
                    and motion_class in (record["motion_class"], "all")
                )
                for method in ("AdaCache", "interval")
            )
            psnrs = [f"{each['psnr']:.2f}" for each in (ours, theirs)]
            better = 0 if ours["psnr"] >= theirs["psnr"] else 1
            psnrs[better] = f"**{psnrs[better]}**"
            cells = [setting, motion_class, f"{ours['computed']:.1f} of {STEPS}", *psnrs]
            cells += [f"{each[key]:.3f}" for key in ("ssim", "motion_kept") for each in (ours, theirs)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _means(records: Iterable[dict]) -> dict[str, float]:
    rows = list(records)
    return {
        key: mean(row[key] for row in rows) for key in ("computed", "measured_speedup", "psnr", "ssim", "motion_kept")
    }


def with_headline(readme: str, quality: dict) -> str:
    """The README with the paragraph under its HEADLINE mark saying what was measured, and on what."""
    before, _, after = readme.partition(HEADLINE + "\n")
    ours = _means(row for row in quality["records"] if (row["method"], row["setting"]) == ("AdaCache", "tuned"))
    what = f"mean of {sum(map(len, PROMPTS.values()))} videos of the demo model with our tuned table"
    paragraph = (
        f"**{ours['measured_speedup']:.2f}x measured ({ours['computed']:.1f} of {STEPS} steps computed) at "
        f"{ours['psnr']:.1f} dB PSNR and SSIM {ours['ssim']:.2f} to the uncached video**: {what}, "
        f"{quality['made']['machine']}. [All figures](docs/benchmarks.md).\n"
    )
    return before + HEADLINE + "\n" + paragraph + after[after.index("\n") + 1 :]


if __name__ == "__main__":
    main()
