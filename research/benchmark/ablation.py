"""The paper's ablation, on the demo model, beside the paper's figures: metric, block, MoReg and codebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from tqdm import tqdm

from adacache_core import FAST_30, SLOW_30, TUNED_30, CacheConfig, Codebook, MotionConfig, RunReport
from research import demo_model
from research.quality import compare
from tools.markdown import table

from .made import sentence
from .probed import USUAL, Probe, probed
from .videos import CALIBRATION, CFG, Video, videos


@dataclass(frozen=True)
class Published:
    """The paper's figures for a variant. None: not printed there, or not found by us."""

    vbench: float | None = None  # %
    seconds: float | None = None  # one A100
    speedup: float | None = None
    psnr: float | None = None  # dB
    lpips: float | None = None
    ssim: float | None = None


# arXiv 2411.02397, ablations: Open-Sora 720p, 2 s, 100 steps, 32 videos. Its speed-ups are relative to these seconds:
PAPER_PLAIN_SECONDS = 419.60
PAPER_PLAIN_VBENCH = 84.16


@dataclass(frozen=True)
class Variant:
    """One row, which changes one thing of the basic setting: L1, the middle block, no MoReg, the fast table.

    Attributes:
        part: of the ablation.
        name: of the row.
        config: settings of AdaCache.
        published: the paper's figures.
        probe: metric and place. If it is not the usual one, the codebook is converted to it.
    """

    part: str
    name: str
    config: CacheConfig
    published: Published
    probe: Probe = USUAL


FAST = CacheConfig(FAST_30)


def _with_motion(**settings) -> CacheConfig:
    return CacheConfig(FAST_30, MotionConfig(**settings))


METRIC, PLACE, MOTION, TABLE = "metric", "probe place", "MoReg", "codebook"

VARIANTS = (
    Variant(METRIC, "L1", FAST, Published(83.40, 89.53)),
    Variant(METRIC, "L2", FAST, Published(83.50), Probe(metric="L2")),
    Variant(METRIC, "cosine", FAST, Published(83.19), Probe(metric="cosine")),
    Variant(PLACE, "first block", FAST, Published(83.30), Probe(place="first block")),
    Variant(PLACE, "middle block", FAST, Published(83.40, 89.53)),
    Variant(PLACE, "last block", FAST, Published(83.43), Probe(place="last block")),
    Variant(PLACE, "several blocks", FAST, Published(83.41), Probe(place="several blocks")),
    Variant(PLACE, "whole stack", FAST, Published(), Probe(place="whole stack")),
    Variant(PLACE, "self-attention", FAST, Published(83.40, 89.53), Probe(place="self-attention")),
    Variant(PLACE, "cross-attention", FAST, Published(83.25), Probe(place="cross-attention")),
    Variant(PLACE, "MLP", FAST, Published(83.62, 99.72), Probe(place="MLP")),
    Variant(MOTION, "without", FAST, Published(83.40, 89.53)),
    Variant(MOTION, "with", _with_motion(), Published(83.50, 93.50)),
    Variant(MOTION, "without gradient", _with_motion(gradient=0.0), Published(83.36, 89.01)),
    Variant(MOTION, "several strides (ours: 1, 2)", _with_motion(strides=(1, 2)), Published(83.42, 95.65)),
    Variant(MOTION, "equation 9 to the letter", _with_motion(form="paper"), Published()),
    # Table 1: Open-Sora 480p, 2 s, 30 steps, one A100.
    Variant(TABLE, "fast", FAST, Published(79.39, 24.16, 2.24, 24.92, 0.0981, 0.8375)),
    Variant(TABLE, "fast + MoReg", _with_motion(), Published(79.48, 25.71, 2.10, 25.78, 0.0867, 0.8530)),
    Variant(TABLE, "slow", CacheConfig(SLOW_30), Published(79.66, 37.01, 1.46, 29.97, 0.0456, 0.9085)),
    Variant(TABLE, "tuned (ours)", CacheConfig(TUNED_30), Published()),
)

# Published, but not measured here, because Wan's self-attention is over space and time at once.
LEFT_OUT = {PLACE: (("only spatial attention", Published(83.19)),)}


def measure_ablation(
    model: WanTransformer3DModel | None = None, chosen: Sequence[Video] | None = None, calibration: int = 2
) -> dict:
    """Measures all VARIANTS on the demo model.

    Args:
        model: from `demo_model.load`, by default.
        chosen: which videos; by default one of each motion class, 30 Euler steps.
        calibration: how many prompts of CALIBRATION are used to convert the codebook.
    """
    model = model or demo_model.load()
    chosen = chosen or videos()
    departures = dict.fromkeys((variant.config, variant.probe) for variant in VARIANTS)
    probes = [probe for _, probe in departures if probe != USUAL]
    tables = translated_tables(model, probes, calibration, chosen[0].steps)
    plain = {video: demo_model.preview(_sample(model, video)[0]) for video in tqdm(chosen, desc="plain")}
    measured = {}
    for config, probe in tqdm(departures, desc="ablation", mininterval=5):
        own = replace(config, policy=tables.get(probe, config.policy))
        measured[config, probe] = _means([(video, *_sample(model, video, own, probe)) for video in chosen], plain)
    rows = [
        {"part": variant.part, "variant": variant.name} | measured[variant.config, variant.probe]
        for variant in VARIANTS
    ]
    return {
        "videos": len(chosen),
        "steps": chosen[0].steps,
        "cfg": CFG,
        "tables": {variant.name: str(tables[variant.probe]) for variant in VARIANTS if variant.probe in tables},
        "rows": rows,
    }


def _sample(
    model: WanTransformer3DModel, video: Video, config: CacheConfig | None = None, probe: Probe = USUAL
) -> tuple[Tensor, RunReport | None]:
    if config is None:
        return demo_model.sample(model, video.prompt, video.seed, video.steps, CFG)
    with probed(model, video, config, [probe]) as (evaluate, run):
        noise = demo_model.noise_of(video.seed).to(model.device)
        latent = demo_model.integrate(evaluate, noise, video.steps)
    return latent, run.report


def _means(runs: Iterable[tuple[Video, Tensor, RunReport]], plain: dict[Video, Tensor]) -> dict[str, float]:
    runs = list(runs)
    qualities = [compare(plain[video], demo_model.preview(latent)) for video, latent, _ in runs]
    computed = mean(report.computed for *_, report in runs)
    return {
        "computed": round(computed, 2),
        "counted_speedup": round(mean(report.total for *_, report in runs) / computed, 3),
        "psnr": round(mean(quality.psnr for quality in qualities), 3),
        "ssim": round(mean(quality.ssim for quality in qualities), 4),
        "motion_kept": round(mean(quality.motion_kept for quality in qualities), 4),
    }


def translated_tables(
    model: WanTransformer3DModel, probes: Sequence[Probe], calibration: int, steps: int
) -> dict[Probe, Codebook]:
    """The fast table, converted for each probe from the readings of all probes in runs with the usual one."""
    readings: list[list[float]] = []
    for prompt, seed in CALIBRATION[:calibration]:
        readings += side_by_side(model, Video("", prompt, seed, steps=steps), [USUAL, *probes])
    usual, *others = zip(*readings, strict=True)
    return {
        probe: translated(FAST_30, zip(usual, theirs, strict=True))
        for probe, theirs in zip(probes, others, strict=True)
    }


def side_by_side(model: WanTransformer3DModel, video: Video, probes: Sequence[Probe]) -> list[list[float]]:
    """Changes per step by each probe, at all steps at which a run with the fast table and the first probe measures."""
    sums: list[Tensor] = []  # (probes, 2), alternately for the prompt and for the empty prompt
    rates: list[int] = []

    def notice(of_probes: list[Tensor]) -> None:
        sums.append(torch.stack(of_probes))
        rates.append(run.engine.blocks.state.rate)

    with probed(model, video, FAST, probes, notice) as (evaluate, run):
        demo_model.integrate(evaluate, demo_model.noise_of(video.seed).to(model.device), video.steps)
    both = [prompt + empty for prompt, empty in zip(sums[::2], sums[1::2], strict=True)]
    return [(each[:, 0] / each[:, 1] / rate).tolist() for each, rate in zip(both, rates[::2], strict=True)]


def translated(table: Codebook, pairs: Iterable[tuple[float, float]]) -> Codebook:
    """Converts the thresholds of a table from one metric to another, by the power law that fits the pairs best.

    Args:
        pairs: (change in the table's metric, change in the other one), both per step.
    """
    ours, theirs = np.log(np.array([pair for pair in pairs if min(pair) > 0])).T
    power, offset = np.polyfit(ours, theirs, 1)
    entries = [(float(f"{np.exp(offset) * threshold**power:.6g}"), rate) for threshold, rate in table.entries]
    return Codebook(tuple(entries), table.steps, table.name)


def section(stored: dict) -> str:
    """The section of docs/paper_tables.md, from what `measure_ablation` returned and how it was made."""
    tables = "; ".join(f"{name} `{table}`" for name, table in stored["tables"].items())
    lines = [
        "## Ablation\n",
        sentence(stored["made"]) + "\n",
        f"The left columns are our figures: the demo model, {stored['videos']} videos (one of each motion class),",
        f"{stored['steps']} Euler steps, cfg {stored['cfg']:g}, compared with the uncached video. The basic setting is",
        "the L1 metric on the middle block, without MoReg and with the fast table. Each row changes one of these. The",
        "right columns are the paper's figures, for another model and other videos: only the order of the rows can be",
        "compared. A dash means: not measured, not printed in the paper, or not found by us.\n",
        "The fast table has thresholds for L1 on the middle block; other metrics and places need thresholds of their",
        "own. We converted them, by the power law that best fits what both metrics read at the same steps of two other",
        f"videos, so that about as many steps are computed: {tables}. Rows with equal figures computed the same",
        "steps.\n",
    ]
    for part in (METRIC, PLACE, MOTION):
        lines += _table(stored, part)
    lines += _table_1(stored)
    return "\n".join(lines)


def _table(stored: dict, part: str) -> list[str]:
    lines = [
        f"### {part[0].upper()}{part[1:]}\n",
        "The paper's ablations: Open-Sora 720p, 2 s, 100 steps, 32 videos, one A100. Without a cache the model has a "
        f"VBench score of {PAPER_PLAIN_VBENCH} % and takes {PAPER_PLAIN_SECONDS:.2f} s.\n",
    ]
    rows = []
    for row, variant in _rows(stored, part):
        rows.append([variant.name, *_ours(row, stored["steps"]), *_theirs(variant.published)])
    rows += [[name, *["–"] * len(OURS), *_theirs(published)] for name, published in LEFT_OUT.get(part, ())]
    return [*lines, table(["variant", *OURS, "paper: VBench %", "s", "speed-up"], rows), ""]


def _table_1(stored: dict) -> list[str]:
    lines = [
        "### Codebook\n",
        "The paper's table 1: Open-Sora 480p, 2 s, 30 steps, one A100. Without a cache the model has a VBench score\n"
        "of 79.22 %. The section on the 100-step codebook has the two other tables of the paper's ablation.\n",
    ]
    rows = []
    for row, variant in _rows(stored, TABLE):
        paper = variant.published
        theirs = [_number(paper.vbench), _number(paper.psnr), _number(paper.lpips, 4), _number(paper.ssim, 4)]
        rows.append([variant.name, *_ours(row, stored["steps"]), *theirs, _number(paper.speedup)])
    heads = ["table", *OURS, "paper: VBench %", "PSNR", "LPIPS", "SSIM", "speed-up"]
    return [*lines, table(heads, rows), ""]


def _rows(stored: dict, part: str) -> list[tuple[dict, Variant]]:
    variants = {(variant.part, variant.name): variant for variant in VARIANTS}
    return [(row, variants[row["part"], row["variant"]]) for row in stored["rows"] if row["part"] == part]


OURS = ("computed", "counted speed-up", "PSNR", "SSIM", "motion kept")


def _ours(row: dict, steps: int) -> list[str]:
    cells = [f"{row['computed']:g} of {steps}", f"{row['counted_speedup']:.2f}", f"{row['psnr']:.2f}"]
    return [*cells, f"{row['ssim']:.3f}", f"{row['motion_kept']:.3f}"]


def _theirs(paper: Published) -> list[str]:
    speedup = "–" if paper.seconds is None else f"{PAPER_PLAIN_SECONDS / paper.seconds:.2f}"
    return [_number(paper.vbench), _number(paper.seconds), speedup]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
