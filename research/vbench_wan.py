"""Runs Wan 2.1 with real weights on VBench's prompts, with and without AdaCache; scores it if VBench is installed.

Writes the videos, with the same seeds for all settings, and a row for each setting into docs/figures.json and
docs/paper_tables.md. The scores are those that VBench has for any videos; its total needs its own script and prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video
from torch import Tensor
from tqdm import tqdm

from adacache_core import FAST_30, SLOW_30, TUNED_30, CacheConfig, MotionConfig, Off
from research.benchmark import paper_page
from research.benchmark.made import circumstances
from research.benchmark.real_weights import COMMAND
from research.quality import compare
from research.wan_pipeline import generate
from tools.video import frames_of, write_webp

OFF = CacheConfig(Off())
SETTINGS = {
    "fast": CacheConfig(FAST_30),
    "fast + MoReg": CacheConfig(FAST_30, MotionConfig()),
    "slow": CacheConfig(SLOW_30),
    "tuned": CacheConfig(TUNED_30),
}

DIMENSIONS = ["subject_consistency", "background_consistency", "motion_smoothness"]
DIMENSIONS += ["dynamic_degree", "aesthetic_quality", "imaging_quality"]

FPS = 16  # of Wan 2.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="folder of a WanPipeline of diffusers")
    parser.add_argument("prompts", type=Path, help="file with one prompt a line, as VBench's prompts/all_dimension.txt")
    parser.add_argument("out", type=Path, help="folder for the videos")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--shape", type=int, nargs=3, default=(81, 480, 832), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--figures", type=Path, default=paper_page.FIGURES, help="where the rows go")
    arguments = parser.parse_args()
    pipeline, device = load(arguments.weights)
    prompts = [line.strip() for line in arguments.prompts.read_text().splitlines() if line.strip()]
    runs = defaultdict(list)
    for seed, prompt in enumerate(tqdm(prompts)):
        plain, took = generate(pipeline, prompt, seed, OFF, arguments.steps, arguments.shape)
        videos = {"plain": (plain, took)}
        for name in arguments.settings:
            videos[name] = generate(pipeline, prompt, seed, SETTINGS[name], arguments.steps, arguments.shape)
        for name, (video, took) in videos.items():
            write(video, arguments.out / name / f"{seed:04}")
            runs[name].append(took | vars(compare(plain, video)))
    rows = [
        {"setting": name, "vbench": scores(arguments.out / name, device)}
        | {figure: mean(run[figure] for run in group) for figure in group[0]}
        for name, group in runs.items()
    ]
    shape = " x ".join(map(str, arguments.shape))
    what = f"{arguments.weights.name}, {len(prompts)} prompts, {arguments.steps} steps, {shape}"
    paper_page.write({"vbench": {"made": circumstances(COMMAND), "what": what, "rows": rows}}, arguments.figures)


def load(weights: Path) -> tuple[WanPipeline, str]:
    """The pipeline and its device. If something is missing, prints what it is and exits with status 2."""
    missing = [name for name in ("accelerate", "transformers") if not find_spec(name)]
    if not (weights / "model_index.json").exists():
        missing.append(f"weights (a WanPipeline of diffusers, with its model_index.json, in {weights})")
    if missing:
        sys.stderr.write(f"Missing: {', '.join(missing)}.\n")
        sys.exit(2)
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    return WanPipeline.from_pretrained(weights, dtype=dtype, local_files_only=True).to(device), device


def write(video: Tensor, path: Path) -> None:
    """Writes .mp4, which VBench reads, if a library for it is installed; else animated .webp."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if find_spec("imageio") or find_spec("cv2"):
        export_to_video(list(video.numpy()), str(path.with_suffix(".mp4")), fps=FPS)
    else:
        write_webp(frames_of(video), path.with_suffix(".webp"), FPS, lossless=True)


def scores(folder: Path, device: str) -> dict[str, float]:
    """Dimension -> VBench's score for the videos of a folder, in [0, 1]; empty without VBench."""
    if not find_spec("vbench"):
        return {}
    import vbench

    prompts = Path(vbench.__file__).with_name("VBench_full_info.json")
    bench = vbench.VBench(torch.device(device), str(prompts), str(folder.parent))
    bench.evaluate(str(folder), folder.name, dimension_list=DIMENSIONS, mode="custom_input")
    results = json.loads((folder.parent / f"{folder.name}_eval_results.json").read_text())
    return {name: float(results[name][0]) for name in DIMENSIONS}


if __name__ == "__main__":
    main()
