"""What AdaCache costs and what it keeps, measured: `python -m tools.benchmark quality` and `cost`.

Writes docs/benchmarks.json and, from it, docs/benchmarks.md, so that the page cannot drift from the
numbers. Every comparison is made within one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from statistics import mean, median
from weakref import WeakSet

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from adacache_core import FAST_30, SLOW_30, TUNED_30, AdaCache, CacheConfig, Codebook, MotionConfig
from adacache_core.change import change_sums
from adacache_core.motion import motion_sums
from adacache_core.stack import Grid, Tape
from tools import demo_model
from tools.quality import compare

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
    parser.add_argument("what", choices=["quality", "cost", "all"], nargs="?", default="all")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stored = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for what in ["quality", "cost"] if arguments.what == "all" else [arguments.what]:
        stored[what] = {"made": _circumstances(f"{what} --threads {arguments.threads}")} | globals()[
            f"measure_{what}"
        ]()
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


def measure_cost(repeats: int = 7) -> dict:
    """Time of plain, computed and reused calls, of what a computed call adds, and bytes held and at the peak."""
    frames, height, width, text_tokens = 6, 20, 50, 77
    torch.manual_seed(0)
    model = _random_wan(layers=12)
    tokens, dim = frames * height * width // 4, 512
    x, t, text = torch.randn(1, 16, frames, height, width), torch.tensor([500.0]), torch.randn(1, text_tokens, 4096)
    config = CacheConfig(Codebook(((1.0, 2),), steps=100), MotionConfig())
    times: dict[str, list[float]] = {"plain": [], "computed": [], "reused": []}
    with torch.inference_mode():
        for _ in tqdm(range(repeats), desc="cost", mininterval=1):
            times["plain"].append(_timed(lambda: model(x, t, text)))
            with AdaCache(model, blocks="blocks", head="norm_out", steps=100, config=config) as run:
                for step in range(5):  # computed, computed, reused, computed, reused
                    with run.evaluation(step), run.call("key", frames, tokens // frames):
                        model(x, t, text)
                times["computed"].append(run.engine.finish().evaluations[3].seconds)
                times["reused"].append(run.report.evaluations[4].seconds)
        operations = _added_operations(tokens, dim, frames)
        memory = [_memory(layers) for layers in (4, 40)]
    paired = [computed / plain for computed, plain in zip(times["computed"], times["plain"], strict=True)]
    return {
        "shape": f"Wan, width {dim}, 12 blocks, {tokens} tokens, {text_tokens} text tokens, float32",
        "plain_ms": round(1000 * median(times["plain"]), 1),
        "computed_over_plain": {
            "median": round(median(paired), 4),
            "low": round(min(paired), 4),
            "high": round(max(paired), 4),
        },
        "reused_over_computed": round(median(times["reused"]) / median(times["computed"]), 5),
        "added_operations_over_computed": round(operations / median(times["computed"]), 6),
        "memory": memory,
    }


def _random_wan(layers: int, dim: int = 512) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=dim // 128, attention_head_dim=128, ffn_dim=4 * dim, num_layers=layers
    ).eval()


def _added_operations(tokens: int, dim: int, frames: int) -> float:
    """Seconds of everything that a computed call does beyond the plain one: copy, difference, probe, metric, motion."""
    tape = Tape(want_probe=True, grid=Grid(frames, tokens // frames))
    stack_input, stack_output, old = (torch.randn(1, tokens, dim) for _ in range(3))
    old = tape.sample(old)

    def added() -> None:
        copy = stack_input.clone()
        probe = tape.sample(stack_output) - tape.sample(stack_input)
        _ = stack_output - copy
        torch.cat([change_sums(probe, old), motion_sums(probe, frames, (1,)).flatten()]).cpu()

    return median(_timed(added) for _ in range(50))


def _memory(layers: int) -> dict:
    """Bytes held between evaluations, and the most that a computed call holds beyond the plain one, in residuals."""
    frames, height, width, dim = 4, 16, 16, 256
    model = _random_wan(layers, dim)
    x, t, text = torch.randn(1, 16, frames, height, width), torch.tensor([500.0]), torch.randn(1, 16, 4096)
    residual = frames * height * width // 4 * dim * x.element_size()
    with _Peak() as plain:
        model(x, t, text)
    config = CacheConfig(Codebook(((1.0, 2),), steps=100))
    with AdaCache(model, blocks="blocks", head="norm_out", steps=100, config=config) as run:
        for step in range(2):
            with _Peak() as computed, run.evaluation(step), run.call("key", frames, height * width // 4):
                model(x, t, text)
        held = run.engine.cache.bytes_held
    return {
        "blocks": layers,
        "held_residuals": round(held / residual, 3),
        "peak_residuals": round((computed.most - plain.most) / residual, 3),
    }


class _Peak(TorchDispatchMode):
    """The most bytes of tensors made in here that were alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: WeakSet = WeakSet()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._alive.add(tensor.untyped_storage())
        self.most = max(self.most, sum(storage.nbytes() for storage in self._alive))
        return out


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _circumstances(command: str) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    return {
        "command": f"python -m tools.benchmark {command}",
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
    }


def page(stored: dict) -> str:
    """docs/benchmarks.md from docs/benchmarks.json."""
    parts = ["# Benchmarks\n\nMade by `python -m tools.benchmark` from `benchmarks.json`; not edited by hand.\n"]
    if "quality" in stored:
        parts.append(_quality_section(stored["quality"]))
    if "cost" in stored:
        parts.append(_cost_section(stored["cost"]))
    return "\n".join(parts)


def _quality_section(quality: dict) -> str:
    records = quality["records"]
    classes = [*PROMPTS, "all"]
    lines = [
        "## Quality on the demo model\n",
        _made(quality["made"]),
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


def _cost_section(cost: dict) -> str:
    ratio = cost["computed_over_plain"]
    lines = [
        "## Cost\n",
        _made(cost["made"]),
        f"{cost['shape']}. A plain call takes {cost['plain_ms']} ms.\n",
        "| what | figure |",
        "|---|---|",
        f"| reused call / computed call | {100 * cost['reused_over_computed']:.2f} % |",
        f"| operations added to a computed call, timed alone / computed call | "
        f"{100 * cost['added_operations_over_computed']:.3f} % |",
        f"| computed call / plain call, paired: median (lowest to highest) | {ratio['median']:.3f} "
        f"({ratio['low']:.3f} to {ratio['high']:.3f}) |",
    ]
    for memory in cost["memory"]:
        depth = f"{memory['blocks']} blocks"
        lines.append(f"| held between evaluations per conditioning, {depth} | {memory['held_residuals']} residuals |")
        lines.append(f"| peak of a computed call beyond a plain one, {depth} | {memory['peak_residuals']} residuals |")
    lines.append("\nA residual is tokens x width x element size.")
    return "\n".join(lines) + "\n"


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


def _made(made: dict) -> str:
    return f"`{made['command']}`, {made['date']}, commit {made['commit']}, torch {made['torch']}, {made['machine']}.\n"


if __name__ == "__main__":
    main()
