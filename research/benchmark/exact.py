"""How far plain videos are from the exact ones, and cached videos too: `python -m research.benchmark --exact`.

A sampler with 20 or 30 steps solves the model's differential equation only roughly. The same noise with many small
Euler steps gives the video that the model means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from research import demo_model
from research.quality import PSNR_SEEN, compare
from tools.markdown import table

from . import plan
from .library import Bench
from .made import sentence
from .paired import OURS, Choice
from .plan import Case, Condition
from .worker import chosen, is_broken, methods_of, open_bench

STEPS = 200  # of Euler's method, for the exact video
FEWER = "fewer steps"
COMPARED = {"plain": None, "ours": Choice(OURS, "2x"), "half": Choice(FEWER, "0.5 of the steps")}

SECTION = f"""\
## How exact is the plain video?

A sampler with 20 or 30 steps solves the model's differential equation only roughly. {STEPS} Euler steps from the same
noise give, nearly, the exact video. The table compares three videos with it: the plain one, the one of `{OURS}` at 2x,
and one with half of the steps. PSNR is the mean over videos in dB / the worst video. Where ours is as near to the exact
video as the plain one is, the two differ, but neither is better. If the plain video itself is far from the exact one,
the other figures of this page say little about that condition.
"""


class _Uncounted(nullcontext):
    """In place of a Meter: counting would take more time than the small models do."""

    def watch(self, blocks: Any) -> None:
        """Counts nothing."""

    def mark(self) -> None:
        """Notes nothing."""


def wanted() -> Iterator[tuple[str, Condition]]:
    """Models and conditions, most important first; not those whose sampler draws noise, nor the distilled model.

    A distilled model is made for its few steps, so it means no other video with more of them.
    """
    models = [model for model in plan.CONDITIONS if model != "distilled"]
    for place in range(max(len(plan.CONDITIONS[model]) for model in models)):
        for model in models:
            for condition in plan.CONDITIONS[model][place : place + 1]:
                if not condition.draws_noise:
                    yield model, condition


def measured(there: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each model and condition that is not there: the PSNR of each of COMPARED, for one video of each class.

    A broken plain video is left out.
    """
    bench = open_bench("host")
    done = {(row["model"], row["condition"]) for row in there}
    for model, condition in wanted():
        if (model, condition.name) in done:
            continue
        psnrs: dict[str, list[float]] = {name: [] for name in COMPARED}
        for case in plan.cases(model, condition, 0):
            plain = _sample(bench, case, None)
            if is_broken(plain):
                continue
            exact = _sample(bench, replace(case, condition=_many(condition)), None)
            for name, choice in COMPARED.items():
                video = plain if choice is None else _sample(bench, case, choice)
                quality = compare(demo_model.preview(exact), demo_model.preview(video), PSNR_SEEN)
                psnrs[name].append(round(quality.psnr, 2))
        yield {"model": model, "condition": condition.name} | psnrs


def _many(condition: Condition) -> Condition:
    return replace(condition, sampler="euler", steps=STEPS, stages=0)


def _sample(bench: Bench, case: Case, choice: Choice | None) -> torch.Tensor:
    if choice is None:
        return bench.sample(case, _Uncounted())
    (method,) = chosen(methods_of("host"), [choice.method])
    return bench.sample(case, _Uncounted(), method, method.settings[choice.setting])


def section(figures: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md, from what is stored under "exact"; "" if nothing is."""
    rows = [row for row in figures.get("rows", []) if row["plain"]]
    if not rows:
        return ""
    columns = ["model", "condition", "videos", "plain", f"{OURS} at 2x", "half of the steps"]
    cells = [
        [row["model"], row["condition"], str(len(row["plain"]))]
        + [f"{fmean(row[name]):.1f} / {min(row[name]):.1f}" for name in COMPARED]
        for row in rows
    ]
    return f"{SECTION}\nMeans:\n\n{_means(rows)}\n\n{sentence(figures['made'])}\n\n{table(columns, cells)}\n"


def _means(rows: Iterable[Mapping[str, Any]]) -> str:
    """The means over all videos of each model, a line for each."""
    of_model: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        of_model[row["model"]].append(row)
    lines = []
    for model, several in of_model.items():
        plain, ours, half = (fmean(psnr for row in several for psnr in row[name]) for name in COMPARED)
        videos = sum(len(row["plain"]) for row in several)
        lines.append(
            f"- `{model}`, {videos} videos: {plain:.1f} dB plain, {ours:.1f} dB with `{OURS}` at 2x, {half:.1f} dB "
            "with half of the steps"
        )
    return "\n".join(lines)
