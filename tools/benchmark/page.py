"""docs/benchmarks.md, its plots and the README's headline, from the records. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from math import isfinite, isnan
from pathlib import Path
from statistics import mean

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from .records import Record
from .standing import ALL, Duel, Point, best_within, duels, points
from .videos import CFG, PLAN, PROMPTS

FRACTIONS = (0.25, 0.35, 0.45, 0.55, 0.65)  # of plain's operations, at which methods are compared

MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "motion_kept": "motion kept"}
LIMITS = {"psnr": (15, 70), "motion_kept": (0.5, 1.5)}  # of what is drawn; all figures are in the tables
WORK = {"computed_fraction": "operations / plain's", "wall_ratio": "time / plain's"}

INTRO = f"""\
# Benchmarks

Made by `python -m tools.benchmark` from `benchmarks.json`; not edited by hand. The model is the one that comes with
the pack ([what it can and cannot do](demo_model.md)), cfg {CFG:g}, float32. All methods get the same noise and prompts,
none of which served to tune or calibrate anything; each is compared with the plain video that the same library made in
the same process, on its latent preview.

*Operations* are executed multiplications and additions, attention included, counted by one counter for everybody, over
those of the plain run; *blocks* are executed calls of transformer blocks; *time* is that of the one thread, counting
included: the wall time of a machine that does nothing else. PSNR is mean and standard deviation over videos. *Motion
kept* is the mean difference of neighbouring frames over that of the plain video. *MB* is the most that was held between
evaluations.
"""


def page(records: Sequence[Record], made: str) -> str:
    """The whole page.

    Args:
        made: when, where and by what, as a sentence.
    """
    every = points(records)
    parts = [INTRO, made + "\n"]
    parts += ["## Where we stand\n", _standing(duels(every))]
    for sampler, steps, *_ in PLAN:
        chosen = [point for point in every if (point.sampler, point.steps, point.motion_class) == (sampler, steps, ALL)]
        if not chosen:
            continue
        parts += [f"## {sampler}, {steps} steps, {chosen[0].videos} videos\n", _at_equal_work(chosen)]
        parts += ["<details><summary>Every setting</summary>\n", every_setting(chosen), "</details>\n"]
    parts.append("## By motion class, Euler, 30 steps\n")
    parts += [f"![{name}](images/benchmark_{name}.png)\n" for name in PROMPTS]
    return "\n".join(parts)


def _standing(all_duels: Sequence[Duel]) -> str:
    lines = [
        "Every setting of every other method, for each sampler, number of steps and motion class, against the best of",
        "ours that computes no more.\n",
        "| method | points | ours is closer | margin, mean (dB) | worst (dB) | ours never as cheap |",
        "|---|---|---|---|---|---|",
    ]
    apart = [duel for duel in all_duels if duel.peer.motion_class != ALL]
    for method, group in (*_by(apart, lambda duel: duel.peer.method), ("**all**", apart)):
        met = [duel.margin for duel in group if isfinite(duel.margin)]
        figures = [f"{mean(met):+.2f}", f"{min(met):+.2f}"] if met else ["", ""]
        cells = [method, str(len(group)), str(sum(margin > 0 for margin in met)), *figures, str(len(group) - len(met))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _at_equal_work(curve: Sequence[Point]) -> str:
    lines = [
        "The best PSNR (dB) that each method reaches with at most so much of plain's operations; the best is bold.\n",
        f"| method | {' | '.join(f'{fraction:.0%}' for fraction in FRACTIONS)} |",
        f"|---|{'---|' * len(FRACTIONS)}",
    ]
    rows = {
        method: [best_within(group, fraction) for fraction in FRACTIONS]
        for method, group in _by(curve, lambda point: point.method)
    }
    best = [max((point.psnr for point in column if point), default=None) for column in zip(*rows.values(), strict=True)]
    for method, row in rows.items():
        cells = [
            "" if point is None else f"**{point.psnr:.1f}**" if point.psnr == top else f"{point.psnr:.1f}"
            for point, top in zip(row, best, strict=True)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def every_setting(curve: Iterable[Point]) -> str:
    """A row for each point."""
    lines = [
        "| method | setting | operations | blocks | time | PSNR | SSIM | motion kept | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for point in sorted(curve, key=lambda point: (point.method, point.computed_fraction)):
        spread = "" if isnan(point.spread) else f" ± {point.spread:.1f}"
        cells = [point.method, point.setting, f"{point.computed_fraction:.3f}", f"{point.block_fraction:.3f}"]
        time = "–" if isnan(point.wall_ratio) else f"{point.wall_ratio:.2f}"
        cells += [time, f"{point.psnr:.1f}{spread}", f"{point.ssim:.3f}"]
        cells += [f"{point.motion_kept:.2f}", f"{point.bytes / 1e6:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(records: Iterable[Record], folder: Path) -> list[Path]:
    """One picture per motion class at 30 Euler steps: each measure against operations and against time."""
    every = [point for point in points(records) if (point.sampler, point.steps) == ("euler", 30)]
    names = sorted({point.method for point in every}, key=lambda name: (not name.startswith("AdaCache"), name))
    styles = {name: _style(number, name) for number, name in enumerate(names)}
    drawn = []
    for motion_class in PROMPTS:
        figure, axes = plt.subplots(len(MEASURES), len(WORK), figsize=(12, 12), sharey="row", sharex=True)
        curves = _by([point for point in every if point.motion_class == motion_class], lambda point: point.method)
        for row, (measure, measure_label) in zip(axes, MEASURES.items(), strict=True):
            for axis, (work, work_label) in zip(row, WORK.items(), strict=True):
                for method, curve in curves:
                    known = [point for point in curve if not isnan(getattr(point, work))]
                    line = sorted(known, key=lambda point: getattr(point, work))
                    xs, ys = ([getattr(point, name) for point in line] for name in (work, measure))
                    axis.plot(xs, ys, label=method, **styles[method])
                axis.set(xlabel=work_label, ylabel=measure_label, xlim=(0, 1))
                axis.grid(alpha=0.3)
                if measure in LIMITS:
                    axis.set_ylim(*LIMITS[measure])
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(f"{motion_class}: 30 Euler steps of the demo model")
        figure.tight_layout(rect=(0, 0.14, 1, 1))
        drawn.append(folder / f"benchmark_{motion_class}.png")
        figure.savefig(drawn[-1], dpi=70)
        plt.close(figure)
    return drawn


def _style(number: int, name: str) -> dict:
    """Ours in bold warm lines, the others thin; colour and marker together tell them apart."""
    ours = name.startswith("AdaCache")
    colour = plt.get_cmap("autumn")(number / 8) if ours else plt.get_cmap("tab20")(number % 20)
    return {"color": colour, "marker": "o^sDvP*X<>"[number % 10], "linewidth": 2.5 if ours else 1.2, "markersize": 5}


def _by(items: Iterable, key: Callable) -> list[tuple]:
    """Groups of equal key, in order of the keys."""
    return [(value, list(group)) for value, group in groupby(sorted(items, key=key), key)]


HEADLINE = "<!-- headline, written by tools.benchmark -->"


def with_headline(readme: str, records: Iterable[Record], machine: str) -> str:
    """The README with the paragraph under its HEADLINE mark saying what was measured, and on what."""
    (ours,) = (
        point
        for point in points(records)
        if (point.method, point.setting, point.sampler, point.steps, point.motion_class) == (*SHOWN, "euler", 30, ALL)
    )
    paragraph = (
        f"**{1 / ours.wall_ratio:.2f}x measured ({1 / ours.block_fraction:.2f}x counted) at {ours.psnr:.1f} dB PSNR "
        f"and SSIM {ours.ssim:.3f} to the uncached video**: mean of {ours.videos} videos of the demo model, preset "
        f"auto at {SHOWN[1]}, {machine}. [All figures, and all other methods](docs/benchmarks.md).\n"
    )
    before, _, after = readme.partition(HEADLINE + "\n")
    return before + HEADLINE + "\n" + paragraph + after[after.index("\n") + 1 :]


SHOWN = ("AdaCache auto", "2x")
