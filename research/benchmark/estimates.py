"""Compares expected with measured closeness: `python -m research.benchmark.estimates`.

Writes docs/estimates.csv (a line for each run; runs that are there are not made again), docs/estimates.md and its
picture. You can stop it at any time, or with `--minutes`; the same command continues.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby, pairwise
from statistics import mean, pstdev
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from tqdm import tqdm

mpl.use("Agg")
from matplotlib import pyplot as plt

from adacache_core.closeness import ABOVE, BELOW, FAR_BELOW, LARGEST, MARKS, STRONG
from research import demo_model
from research.quality import PSNR_SEEN, closeness, compare
from tools.host import ROOT
from tools.markdown import table

from . import plan
from .host_caches import adacache, pack
from .library import Bench, OnHost
from .made import circumstances, sentence
from .meter import Meter
from .plan import Case
from .worker import is_broken, plain_of

RECORDS = ROOT / "docs" / "estimates.csv"
FIGURES = ROOT / "docs" / "figures.json"  # when and where the runs were made
PAGE = ROOT / "docs" / "estimates.md"
PICTURE = ROOT / "docs" / "images" / "estimates.png"

MODELS = ("two_streams", "clips", "distilled", "demo")  # the models that only judge come first
CONDITIONS = 5  # for each model, the first ones with one sampler that draws no noise
AUTO = "auto 2x"
MIXED = ("good", "fixed")  # the two settings that are compared over all videos


@dataclass(frozen=True)
class Run:
    """One video with a cache, compared with the plain one.

    Attributes:
        model, condition, motion_class, seed: which video.
        setting: AUTO, a name of MARKS, or "fixed" for the same number of steps for all videos.
        computed: for each step, 1 if it was computed, else 0.
        expected, low, high: the report's estimate and its range, dB; None without an estimate.
        came: measured closeness, dB, at most LARGEST.
        psnr: of the preview, dB.
        worst_frame: lowest PSNR of a frame of the preview, dB.
        draft, good, faithful: evaluations that these settings would compute, according to the report.
    """

    model: str
    condition: str
    motion_class: str
    seed: int
    setting: str
    computed: str
    expected: float | None
    low: float | None
    high: float | None
    came: float
    psnr: float
    worst_frame: float
    draft: int | None
    good: int | None
    faithful: int | None

    @property
    def video(self) -> tuple[str, str, str, int]:
        return (self.model, self.condition, self.motion_class, self.seed)

    @property
    def count(self) -> int:
        """Computed steps."""
        return self.computed.count("1")

    @property
    def share(self) -> float:
        return self.count / len(self.computed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="make no video; write the page from the stored runs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to continue")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    runs = read()
    figures = json.loads(FIGURES.read_text())
    if not arguments.page:
        torch.set_num_threads(1)
        deadline = time.monotonic() + 60 * arguments.minutes
        for run in made(arguments.models, runs):
            runs.append(run)
            write(runs)
            if time.monotonic() > deadline:
                break
        figures["estimates"] = {"made": circumstances("python -m research.benchmark.estimates")}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(runs, sentence(figures["estimates"]["made"])))
    draw([run for run in runs if run.expected is not None])
    print(f"written: {PAGE}")


def made(models: Sequence[str], runs: list[Run]) -> Iterator[Run]:
    """Makes the missing runs: one video of each class, then the fixed numbers of steps."""
    bench = Bench()
    several = [case for model in models for condition in judged(model) for case in plan.cases(model, condition, 0)]
    done = {(run.video, run.setting) for run in runs}
    for case in tqdm(several, mininterval=30):
        for setting in (AUTO, *MARKS):
            if (video_of(case), setting) not in done:
                preset = {"preset": "auto", "speedup": 2.0} if setting == AUTO else quality(setting)
                yield from _run(bench, case, setting, preset)
    for model in models:
        good = [run for run in runs if run.model == model and run.setting == MIXED[0]]
        for case in (case for case in several if case.model == model):
            if (video_of(case), MIXED[1]) not in done and good:
                yield from _run(bench, case, MIXED[1], {"preset": "auto", "schedule": fixed(case, good)})


def judged(model: str) -> list[plan.Condition]:
    """The conditions under which the videos of a model are made."""
    fit = [each for each in plan.CONDITIONS[model] if not each.draws_noise and not each.stages and each.denoise == 1]
    return fit[:CONDITIONS]


def quality(mark: str) -> dict[str, Any]:
    return {"preset": "quality", "closeness": MARKS[mark]}


def video_of(case: Case) -> tuple[str, str, str, int]:
    return (case.model, case.condition.name, case.motion_class, case.seed)


def fixed(case: Case, good: Sequence[Run]) -> Any:
    """A schedule with the mean share of steps of all videos, placed as the schedules of this condition on average."""
    schedule = pack().adacache_core.Schedule
    here = [
        schedule(tuple(each == "1" for each in run.computed)) for run in good if run.condition == case.condition.name
    ]
    computed = [step for step, runs in enumerate(pack().adacache_core.average(here).computed) if runs]
    wanted = round(mean(run.share for run in good) * case.steps)
    while len(computed) < wanted:  # add a step in the middle of the longest gap
        last, following = max(pairwise([*computed, case.steps]), key=lambda gap: gap[1] - gap[0])
        computed = sorted({*computed, (last + following) // 2})
    while len(computed) > wanted:  # remove a step where its neighbours are nearest
        place = min(range(1, len(computed) - 1), key=lambda place: computed[place + 1] - computed[place - 1])
        del computed[place]
    return schedule(tuple(step in computed for step in range(case.steps)))


def _run(bench: Bench, case: Case, setting: str, settings: dict[str, Any]) -> Iterator[Run]:
    plain = plain_of(bench, "host", case)
    if is_broken(plain.latent):
        return
    models: list[Any] = []

    def attach(bench: Bench, model: Any, setting: Any, case: Case) -> Any:
        models.append(adacache(bench, model, setting, case))
        return models[-1]

    cached = bench.sample(case, Meter(), OnHost(setting, {}, attach=attach), settings)
    report = pack().nodes.host.attach.attachment_of(models[-1]).finished[-1].report
    seen = compare(demo_model.preview(plain.latent), demo_model.preview(cached), PSNR_SEEN)
    would = report.would_take or dict.fromkeys(MARKS)
    yield Run(
        *video_of(case),
        setting,
        "".join(str(int(each)) for each in report.schedule().computed),
        *(None if each is None else round(each, 2) for each in _expected(report)),
        round(min(closeness(plain.latent, cached), LARGEST), 2),
        round(seen.psnr, 2),
        round(seen.worst_frame, 2),
        *(would[name] for name in MARKS),
    )


def _expected(report: Any) -> tuple[float | None, ...]:
    return report.expected_db, report.expected_db_low, report.expected_db_high


def read() -> list[Run]:
    if not RECORDS.exists():
        return []
    with RECORDS.open(newline="") as lines:
        return list(map(_of_row, csv.DictReader(lines)))


def _of_row(row: dict[str, str]) -> Run:
    return Run(**{field.name: _cell(field.type, row[field.name]) for field in fields(Run)})


def _cell(kind: Any, text: str) -> Any:
    readers: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    first, _, rest = str(kind).partition(" | ")
    return None if rest and not text else readers[first](text)


def write(runs: Iterable[Run]) -> None:
    beside = RECORDS.with_suffix(".new")
    with beside.open("w", newline="") as lines:
        rows = csv.DictWriter(lines, [field.name for field in fields(Run)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(run) for run in sorted(runs, key=lambda run: (run.video, run.setting)))
    beside.replace(RECORDS)


# --- The page --------------------------------------------------------------------------------------------------------

PAGE_TEXT = """\
# How close videos come, and how well AdaCache predicts it

`python -m research.benchmark.estimates` writes this page from `estimates.csv`. Do not edit it by hand.

*Closeness* says how close a video is to the one without AdaCache. It is the signal-to-noise ratio of the finished
latent, in dB; higher is closer. After a run, AdaCache reports which closeness it expects, with a range that should
hold nine of ten videos: from {below:g} dB below to {above:g} dB above. From cfg {strong:g} on the range begins
{far_below:g} dB below, because a small error can then turn a video into another one. AdaCache never expects more than
{largest:g} dB. To check these estimates, we also made each video of this page without AdaCache. The constants behind
the estimates were found on other videos of the model `demo`; nothing of `two_streams`, `clips` and `distilled` was used
for them ([the models](demo_model.md)).

{made}

## Expected and measured closeness

{expected}

For each model, the condition in which the fewest runs are inside the range: {least}.

![expected and measured closeness](images/estimates.png)

## One quality for all videos, or one number of steps for all

Preset `quality` at *good* ({good:g} dB) chooses a number of steps for each video. In the rows *fixed*, the same videos
all compute the same share of their steps: the mean share that `quality` computed. These steps are placed where
`quality` computed on average. Closeness is in dB; PSNR is that of the preview, in dB.

{mixed}

## Closeness asked for, and measured

{asked}

## How many steps another quality would compute

After a run with `auto` at 2x, the report says how many steps preset `quality` would compute for this video at each of
its three marks. The table says for how many videos this was right within two steps:

{would}
"""

EXPECTED = ["model", "runs", "inside the range", "measured minus expected, mean", "standard deviation", "correlation"]
MIXED_SET = ["model", "setting", "videos", "computed", "fewest to most", "closeness", "lowest closeness"]
MIXED_SET += ["deviation of closeness", "PSNR", "lowest PSNR", "worst frame"]
ASKED = ["model", "asked for", "videos", "computed", "closeness", "lowest", "highest"]


def page(runs: list[Run], made: str) -> str:
    """docs/estimates.md.

    Args:
        made: when, where and by which command, as a sentence.
    """
    by_model = [(model, [run for run in runs if run.model == model]) for model in MODELS]
    by_model = [(model, several) for model, several in by_model if several]
    return PAGE_TEXT.format(
        made=made,
        below=BELOW,
        above=ABOVE,
        strong=STRONG,
        far_below=FAR_BELOW,
        largest=LARGEST,
        good=MARKS["good"],
        expected=table(EXPECTED, (_expected_row(*each) for each in by_model)),
        least="; ".join(_least(model, several) for model, several in by_model),
        mixed=table(MIXED_SET, (_mixed_row(*each, setting) for each in by_model for setting in MIXED)),
        asked=table(ASKED, (_asked_row(*each, name) for each in by_model for name in MARKS)),
        would=table(["model", *MARKS], (_would_row(*each) for each in by_model)),
    )


def _expected_row(model: str, runs: Sequence[Run]) -> list[Any]:
    known = [run for run in runs if run.expected is not None]
    if len(known) < 2:
        return [model, len(known), *["–"] * 4]
    inside = mean(run.low <= run.came <= run.high for run in known)
    off = [run.came - run.expected for run in known]
    both = [run.came for run in known], [run.expected for run in known]
    related = f"{np.corrcoef(*both)[0, 1]:.2f}" if min(map(pstdev, both)) > 0 else "–"
    return [model, len(known), f"{inside:.0%}", f"{mean(off):+.1f} dB", f"{pstdev(off):.1f} dB", related]


def _least(model: str, runs: Sequence[Run]) -> str:
    """The condition in which the fewest runs are inside the range, and the share under the model's other conditions."""
    held: dict[str, list[bool]] = {}
    for run in runs:
        if run.expected is not None:
            held.setdefault(run.condition, []).append(run.low <= run.came <= run.high)
    if not held:
        return f"`{model}` has no estimates"
    least = min(held, key=lambda condition: mean(held[condition]))
    others = [each for condition, several in held.items() if condition != least for each in several]
    beside = f" ({mean(others):.0%} of {len(others)} under its other conditions)" if others else ""
    return f"`{model}`, {least}: {mean(held[least]):.0%} of {len(held[least])} runs{beside}"


def _mixed_row(model: str, runs: Sequence[Run], setting: str) -> list[Any]:
    here = [run for run in runs if run.setting == setting]
    if not here:
        return [model, setting, 0, *["–"] * 8]
    came = [run.came for run in here]
    counts = [f"{run.count} of {len(run.computed)}" for run in sorted(here, key=lambda run: run.share)]
    return [
        *(model, setting, len(here), f"{mean(run.share for run in here):.0%}", f"{counts[0]} to {counts[-1]}"),
        *(f"{value:.1f}" for value in (mean(came), min(came), pstdev(came), mean(run.psnr for run in here))),
        *(f"{min(values):.1f}" for values in ([run.psnr for run in here], [run.worst_frame for run in here])),
    ]


def _asked_row(model: str, runs: Sequence[Run], name: str) -> list[Any]:
    here = [run for run in runs if run.setting == name]
    came = [run.came for run in here] or [math.nan]
    share = mean(run.share for run in here) if here else math.nan
    values = (f"{value:.1f}" for value in (mean(came), min(came), max(came)))
    return [model, f"{name}, {MARKS[name]:g} dB", len(here), f"{share:.0%}", *values]


def _would_row(model: str, runs: Sequence[Run]) -> list[Any]:
    took = {(run.video, run.setting): run.count for run in runs}
    said = [run for run in runs if run.setting == AUTO and run.draft is not None]
    cells = []
    for name in MARKS:
        off = [abs(getattr(run, name) - took[run.video, name]) for run in said if (run.video, name) in took]
        cells.append(f"{mean(each <= 2 for each in off):.0%} of {len(off)}" if off else "–")
    return [model, *cells]


STYLES = {
    "two_streams": ("#D55E00", "s"),
    "clips": ("#0072B2", "^"),
    "distilled": ("#009E73", "D"),
    "demo": ("#000000", "o"),
}


def draw(runs: Sequence[Run]) -> None:
    """Expected against measured closeness, a mark for each run; the band is the expected range."""
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    ends = np.array([0.0, LARGEST + 2])
    axes.fill_between(
        ends, ends - FAR_BELOW, ends - BELOW, color="0.95", label=f"expected range from cfg {STRONG:g} on"
    )
    axes.fill_between(ends, ends - BELOW, ends + ABOVE, color="0.88", label="expected range")
    axes.plot(ends, ends, color="0.5", linewidth=1)
    for model, several in groupby(sorted(runs, key=lambda run: MODELS.index(run.model)), key=lambda run: run.model):
        colour, marker = STYLES[model]
        points = [(run.expected, run.came) for run in several]
        axes.scatter(*zip(*points, strict=True), s=22, color=colour, marker=marker, alpha=0.7, label=model)
    axes.set(xlim=ends, ylim=ends, xlabel="expected closeness (dB)", ylabel="measured closeness (dB)")
    axes.legend(loc="upper left")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
