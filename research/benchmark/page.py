"""Writes docs/benchmarks.md, docs/benchmarks_data.md and the README's headline from the records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite, isnan
from typing import TYPE_CHECKING

from tools.markdown import table

from . import paired
from .paired import ENOUGH_VIDEOS, FEW, LEAST, MOST, NEAR_BEST, OURS, TOLERANCE, AtSpeed, Choice, Duel, Place, Point
from .plots import picture
from .records import PLAIN, Record

if TYPE_CHECKING:  # importing it needs torch
    from .plan import Condition

TUNED_ON = "demo"  # the model on which the constants of auto were tuned; all others only judge
SPEEDS = (1.5, 2, 3)

PUBLISHED = "AdaCache fast (published table)"
PUBLISHED_PSNR, PUBLISHED_SPEED = 24.92, 2.24  # table 1 of arXiv 2411.02397: Open-Sora 480p, fast

TWO_SAMPLERS = " + "  # in the name of a condition; see `LEGEND`

HEADLINE = "<!-- headline, written by research.benchmark -->"
SHOWN = Choice(OURS, "2x")  # the method and setting of the README's headline
HEADLINE_STEPS = 20  # the headline is for conditions with at least this many

INTRO = f"""\
# Benchmarks

`python -m research.benchmark` writes this page from the records in `benchmarks/`. Do not edit it by hand. Another page
has [all the data](benchmarks_data.md): every setting of every method, and every comparison.

## What is measured

We measure how close a video made with a cache comes to the *plain* video, which the same model makes without a cache.
All methods get the same noise and prompts. Each video is compared with the plain one from the same library on the same
machine: by PSNR, SSIM and motion on the preview of its latent, and by ST-LPIPS on its frames. *PSNR* is the mean over
frames; above 50 dB nobody sees a difference, so no frame counts as more than 50 dB. *Work* is the number of
multiplications and additions, attention included, relative to the plain run; 2x means half of its work. The constants
of `auto` were tuned on `{TUNED_ON}` alone; nothing was tuned on the other models, which only judge it. All models are
small ([what they can and cannot do](demo_model.md)), so they cannot show how large models err. A *condition* is the way
in which a video is sampled; its name gives sampler, number of steps, shift of the noise levels and cfg.
"""

LEGEND = f"""\
Each cell has three figures, over all models together. The first is the mean PSNR in dB, the second the PSNR of the
worst video. The third is the number of conditions in which the method is within {NEAR_BEST:g} dB of the best, out of
all conditions in which it reaches this speed. In each condition we take one setting of the method: the one that does
the most work between {LEAST:g} and {MOST:g} times what the speed allows. If there is no such setting, the condition
does not count for this method. So the means of two methods may be over different conditions, but the third figure
compares methods within the same condition. Conditions in which only `{OURS}` has such a setting are left out. *MB* is
the most memory that a method held between evaluations beyond the plain run, at any setting, on `{TUNED_ON}`, in
conditions with one sampler. With two samplers, the count includes what the first one left and Python has not freed yet.
"""

DUELS = f"""\
**One setting against one setting**, by a rule that we fixed in advance. Each setting of another method is compared,
video by video, with one setting of `{OURS}` ({{dial}}): the one that does the most work without exceeding the other's
work by more than {100 * TOLERANCE:g} %. One of the two is closer if the 95 % bootstrap interval of the mean difference
in PSNR excludes 0; otherwise the two are level. With fewer than {ENOUGH_VIDEOS} videos we cannot tell. If two settings
are equally good, chance alone puts ours ahead in about one of forty pairs, and the other ahead in as many.
"""

DRAWN = """\
Each point is a setting of a method: its mean work and PSNR over all conditions of the model in which *fewer steps* and
at least three quarters of the other methods were measured, of those that were measured in at least half of its
conditions. Conditions with lcm or an ancestral sampler are left out, because `auto` computes every step there. The
plots show ours, *fewer steps*, and some of the methods that were measured under every one of these conditions: those
that are most often close to the best at 2x.
"""

DATA_INTRO = f"""\
# Benchmarks: all the data

`python -m research.benchmark` writes this page from the records in `benchmarks/`. Do not edit it by hand. Another page
says [what is measured, and sums up the results](benchmarks.md).

**Each model's table** has the same columns as [the table for all models](benchmarks.md#where-we-stand).

**Settings.** *Work*, *blocks* (calls of transformer blocks) and *time* (of the processor) are relative to the plain
run. *PSNR* is the mean over videos in dB, followed by the worst video and the worst frame of any video. *ST-LPIPS* is
the shift-tolerant perceptual distance of Ghildyal and Liu (2022) on enlarged frames; its numbers cannot be compared
with those of the original LPIPS. *Motion* is the mean difference of neighbouring frames relative to the plain video.
*Latent* is the closeness of the finished latent: the mean square of the plain latent over the mean squared difference,
in dB. *MB* is the most memory held between evaluations beyond the plain run.

**Comparisons.** Each row compares a setting of another method with the setting of `{OURS}` that does as much work or
less. A positive difference always means that ours is closer. *Motion* compares how far each is from 1. *Interval* is
the 95 % bootstrap interval over videos; with fewer than {ENOUGH_VIDEOS} videos there is none. *Won* is the share of
videos in which our PSNR is higher. *No match* means that every setting of `{OURS}` does more work.
"""


def pages(
    records: Sequence[Record], plan: Mapping[tuple[str, str, str], int], made: str, exact: str = ""
) -> tuple[str, str]:
    """docs/benchmarks.md and docs/benchmarks_data.md.

    Args:
        records: of `Store.records`.
        plan: (model, condition, method) of everything planned, with models and conditions in the order of the pages,
            and the number of videos of each.
        made: when, where and by what, as a sentence.
        exact: the section of `exact.py`.
    """
    measured = paired.places(records)
    order = {place: number for number, place in enumerate(dict.fromkeys(Place(*row[:2]) for row in plan))}
    measured = dict(sorted(measured.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))
    of_place, fought = paired.points(measured), paired.duels(measured)
    people = [
        INTRO,
        _scope(of_place),
        _nearest(of_place, bool(exact)),
        _broken(records),
        made + "\n",
        "## Where we stand\n",
        _table(of_place, TUNED_ON),
        LEGEND,
        _duels(of_place, fought),
        *(f"![{model}](images/{picture(model)})\n" for model, _ in _by_model(of_place)),
        DRAWN,
        exact,
        "## Where other methods are ahead\n",
        _ahead(fought),
        _share_measured(records, plan),
    ]
    data = [DATA_INTRO, made + "\n", *_at_speeds(of_place), *_everything(of_place, fought)]
    data += ["## Broken plain videos\n", _which_broken(records), "## Not measured yet\n", _missing(records, plan)]
    return "\n".join(people), "\n".join(data)


# --- docs/benchmarks.md ----------------------------------------------------------------------------------------------


def _scope(of_place: Mapping[Place, Sequence[Point]]) -> str:
    """A line for each model, with its conditions and number of videos."""
    lines = []
    for model, group in _by_model(of_place):
        number = _span([max(one.videos for one in of_place[place]) for place in group])
        ours = [one.videos for place in group for one in of_place[place] if one.choice.method == OURS]
        number += f" (`{OURS}`: {_span(ours)})" if ours and _span(ours) != number else ""
        role = "used for tuning" if model == TUNED_ON else "judges"
        conditions = "; ".join(place.condition for place in group)
        lines.append(f"- `{model}` ({role}), {number} videos for each condition: {conditions}.")
    return "\n".join(lines) + "\n"


def _nearest(of_place: Mapping[Place, Sequence[Point]], exact: bool) -> str:
    """The condition in which the published table does about as well as in the paper; "" if it was not measured.

    Args:
        exact: whether the page says how exact plain videos are.
    """
    found = [
        (abs(one.psnr - PUBLISHED_PSNR), place, one)
        for place, here in of_place.items()
        for one in here
        if place.model == TUNED_ON and one.choice.method == PUBLISHED and one.videos >= ENOUGH_VIDEOS
    ]
    if not found:
        return ""
    _, place, one = min(found, key=lambda each: each[0])
    doubt = " Its plain videos are themselves [far from exact](#how-exact-is-the-plain-video)." if exact else ""
    ours = ""
    for one_of_ours in of_place[place]:
        if one_of_ours.choice == SHOWN:
            ours = (
                f" `{OURS}` at {SHOWN.setting} reaches {one_of_ours.psnr:.1f} dB there (worst video "
                f"{one_of_ours.worst_video:.1f} dB), at {1 / one_of_ours.work:.2f}x."
            )
    return (
        f"The condition nearest to real models is *{place.condition}* on `{TUNED_ON}`: there the paper's table `fast` "
        f"reaches {one.psnr:.1f} dB at {1 / one.work:.2f}x; the paper reports {PUBLISHED_PSNR:g} dB at "
        f"{PUBLISHED_SPEED:g}x for Open-Sora.{ours} For a real Wan or HunyuanVideo we found no report of more than "
        f"35 dB at 2x.{doubt}\n"
    )


def _by_model(of_place: Iterable[Place]) -> list[tuple[str, list[Place]]]:
    return [(model, list(group)) for model, group in groupby(of_place, key=lambda place: place.model)]


def _broken(records: Sequence[Record]) -> str:
    plain = sum(record.method == PLAIN for record in records)
    left_out = len(paired.broken(records))
    if not left_out:
        return f"None of the {plain} plain videos came out broken.\n"
    return (
        f"{left_out} of the {plain} plain videos came out broken: noise, or faded. They are left out everywhere "
        "([which](benchmarks_data.md#broken-plain-videos)).\n"
    )


def _which_broken(records: Sequence[Record]) -> str:
    left_out = Counter(place for place, _ in paired.broken(records))
    lines = [f"- {model}, {condition}: {number}" for (model, condition), number in sorted(left_out.items())]
    return "\n".join(lines or ["None."]) + "\n"


def _table(of_place: Mapping[Place, Sequence[Point]], held_on: str) -> str:
    """Table of methods and speeds; first the methods that are most often close to the best at 2x.

    Args:
        held_on: the model for the column of memory.
    """
    at = {speed: paired.at_speed(of_place.values(), speed) for speed in SPEEDS}
    held: dict[str, int] = {}
    for place, here in of_place.items():
        for one in here:
            if place.model == held_on and TWO_SAMPLERS not in place.condition:
                held[one.choice.method] = max(one.bytes, held.get(one.choice.method, 0))

    def rank(method: str) -> tuple[int, float, str]:
        found = at[2].get(method)
        return (-found.near_best, -found.psnr, method) if found else (1, 0, method)

    rows = []
    for method in sorted({one.choice.method for here in of_place.values() for one in here}, key=rank):
        cells = [f"**{method}**" if method == OURS else method]
        cells += [_at_speed(at[speed].get(method)) for speed in SPEEDS]
        rows.append([*cells, f"{held[method] / 1e6:.1f}" if method in held else "–"])
    return table(["method", *(f"{speed:g}x" for speed in SPEEDS), "MB"], rows) + "\n"


def _at_speed(found: AtSpeed | None) -> str:
    if found is None:
        return "–"
    return f"{found.psnr:.1f} / {found.worst_video:.1f} / {found.near_best} of {found.places}"


def _duels(of_place: Mapping[Place, Sequence[Point]], fought: Sequence[Duel]) -> str:
    """The results of the comparisons, model by model."""
    dial: dict[str, float] = {}
    for here in of_place.values():
        for one in here:
            if one.choice.method == OURS:
                dial.setdefault(one.choice.setting, one.work)
    lines = [DUELS.format(dial=", ".join(sorted(dial, key=dial.__getitem__, reverse=True)))]
    for model, group in groupby(fought, key=lambda duel: duel.place.model):
        count = Counter(duel.outcome for duel in group)
        lines.append(
            f"- `{model}`: {count.total()} settings of other methods, counted once per condition. Ours is closer than "
            f"{count['ours']} and level with {count['level']}; {count['theirs']} {_are(count['theirs'])} closer than "
            f"ours. {count[FEW]} were measured on too few videos to tell; {count['no match']} do less work than any "
            "setting of ours."
        )
    return "\n".join(lines) + "\n"


def _ahead(fought: Sequence[Duel]) -> str:
    """A paragraph for each place in which a rival is ahead."""
    lost = paired.ahead(fought)
    here: dict[Place, list[Duel]] = defaultdict(list)
    for duel in fought:
        here[duel.place].append(duel)
    paragraphs = [_paragraph(place, lost[place], here[place]) for place in here if place in lost]
    return "\n".join(paragraphs) if paragraphs else "No other method is ahead in what has been measured.\n"


def _paragraph(place: Place, lost: Sequence[Duel], all_here: Sequence[Duel]) -> str:
    """The paragraph for a place where a rival is ahead.

    Args:
        lost: the duels that rivals won, the furthest ahead first; at least one.
        all_here: all duels of this place.
    """
    first = lost[0]
    theirs, ours, psnr = first.theirs, first.ours, first.differences["psnr"]
    count = Counter(duel.outcome for duel in all_here)
    level, compared = count["level"], count["ours"] + count["theirs"] + count["level"]
    text = (
        f"**{place.model}, {place.condition}.** Settings of other methods that were compared on enough videos: "
        f"{compared}; closer than ours: {len(lost)}; level: {level}. "
        f"{theirs.choice.method} at {theirs.choice.setting} is furthest ahead: by "
        f"{-psnr.mean:.1f} dB (95 % interval {-psnr.high:.1f} to {-psnr.low:.1f}); it is closer in "
        f"{_percent(1 - first.won)} of {theirs.videos} videos. It does {_percent(theirs.work)} of the plain run's "
        f"work, ours (at {ours.choice.setting}) {_percent(ours.work)}. Its worst video has {theirs.worst_video:.1f} "
        f"dB, ours {ours.worst_video:.1f} dB."
    )
    others: dict[str, float] = {}
    for duel in lost:
        others.setdefault(duel.theirs.choice.method, -duel.differences["psnr"].mean)
    del others[theirs.choice.method]
    if others:
        text += f" Also ahead: {', '.join(f'{method} (by up to {most:.1f} dB)' for method, most in others.items())}."
    return text + "\n"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share_measured(records: Sequence[Record], plan: Mapping[tuple[str, str, str], int]) -> str:
    """How much of the plan is measured, in a line; "" if all of it is."""
    seen: dict[tuple[str, ...], set] = defaultdict(set)
    for record in records:
        seen[record.model, record.condition, record.method].add(record.video)
    broken: dict[tuple[str, ...], set] = defaultdict(set)  # of these there is nothing more to measure
    for place, video in paired.broken(records):
        broken[place].add(video)
    of_each = {row: min(len(seen[row] | broken[row[:2]]), number) for row, number in plan.items() if seen[row]}
    pairs, videos, of_all = len(of_each), sum(of_each.values()), sum(plan.values())
    if videos == of_all:
        return ""
    missing = "" if pairs == len(plan) else " [These are missing](benchmarks_data.md#not-measured-yet)."
    return (
        f"So far, {pairs} of the {len(plan)} planned pairs of method and condition are measured, and "
        f"{_percent(videos / of_all)} of the planned videos.{missing}\n"
    )


def _missing(records: Iterable[Record], plan: Iterable[tuple[str, str, str]]) -> str:
    """The parts of the plan of which no video is measured, as a short list."""
    there = {(record.model, record.condition, record.method) for record in records}
    conditions: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for model, condition, method in plan:
        conditions[model][condition].append(method)
    lines = []
    for model, of_condition in conditions.items():
        lacking = {
            condition: [method for method in methods if (model, condition, method) not in there]
            for condition, methods in of_condition.items()
        }
        by_methods: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for condition, methods in lacking.items():
            if methods:
                everything = len(methods) == len(of_condition[condition])
                by_methods[("nothing is measured",) if everything else tuple(methods)].append(condition)
        for methods, where in by_methods.items():
            places = "any condition" if len(where) == len(of_condition) else "; ".join(where)
            lines.append(f"- `{model}`, {places}: {', '.join(methods)}.")
    return "\n".join(lines or ["All of these were measured, on at least one video."]) + "\n"


# --- docs/benchmarks_data.md -----------------------------------------------------------------------------------------

SETTINGS_COLUMNS: dict[str, Callable[[Point], str]] = {
    "method": lambda one: one.choice.method,
    "setting": lambda one: one.choice.setting,
    "videos": lambda one: str(one.videos),
    "work": lambda one: f"{one.work:.3f}",
    "blocks": lambda one: f"{one.blocks:.3f}",
    "time": lambda one: "–" if isnan(one.time) else f"{one.time:.2f}",
    "PSNR": lambda one: f"{one.psnr:.1f}",
    "worst video": lambda one: f"{one.worst_video:.1f}",
    "worst frame": lambda one: f"{one.worst_frame:.1f}",
    "SSIM": lambda one: f"{one.ssim:.3f}",
    "ST-LPIPS": lambda one: f"{one.lpips:.4f}",
    "motion": lambda one: f"{one.motion_kept:.2f}",
    "latent": lambda one: f"{one.closeness:.1f}",
    "MB": lambda one: f"{one.bytes / 1e6:.1f}",
}

DIFFERENCES = {"worst_frame": ".1f", "ssim": ".3f", "lpips": ".4f", "motion_kept": ".2f"}
DUEL_COLUMNS = ["method", "setting", "work", "ours", "work of ours", "videos", "PSNR", "interval", "won"]
DUEL_COLUMNS += ["worst frame", "SSIM", "ST-LPIPS", "motion", "closer"]


def _at_speeds(of_place: Mapping[Place, Sequence[Point]]) -> list[str]:
    """The table of docs/benchmarks.md, for each model separately."""
    tables = ((model, {place: of_place[place] for place in places}) for model, places in _by_model(of_place))
    return [f"## {model}\n\n{_table(of_model, model)}" for model, of_model in tables]


def _everything(of_place: Mapping[Place, Sequence[Point]], fought: Iterable[Duel]) -> list[str]:
    here: dict[Place, list[Duel]] = defaultdict(list)
    for duel in fought:
        here[duel.place].append(duel)
    parts = []
    for place, several in of_place.items():
        parts += [f"## {place.model}, {place.condition}\n", "<details><summary>Settings</summary>\n", settings(several)]
        parts += ["</details>\n", "<details><summary>Comparisons</summary>\n", _duel_table(here[place]), "</details>\n"]
    return parts


def settings(several: Iterable[Point]) -> str:
    """A table with a row for each point."""
    ordered = sorted(several, key=lambda one: (one.choice.method, -one.work, one.choice.setting))
    rows = ([cell(one) for cell in SETTINGS_COLUMNS.values()] for one in ordered)
    return table(SETTINGS_COLUMNS, rows) + "\n"


def _duel_table(several: Iterable[Duel]) -> str:
    ordered = sorted(
        several, key=lambda duel: (duel.theirs.choice.method, -duel.theirs.work, duel.theirs.choice.setting)
    )
    return table(DUEL_COLUMNS, map(_duel_row, ordered)) + "\n"


def _duel_row(duel: Duel) -> list[str]:
    cells = [*duel.theirs.choice, f"{duel.theirs.work:.3f}"]
    if duel.ours is None:
        cells += [""] * (len(DUEL_COLUMNS) - len(cells) - 1)
    else:
        psnr = duel.differences["psnr"]
        interval = f"{psnr.low:+.2f} to {psnr.high:+.2f}" if isfinite(psnr.low) else "–"
        cells += [duel.ours.choice.setting, f"{duel.ours.work:.3f}", str(duel.ours.videos)]
        cells += [f"{psnr.mean:+.2f}", interval, _percent(duel.won)]
        cells += [f"{duel.differences[name].mean:+{digits}}" for name, digits in DIFFERENCES.items()]
    return [*cells, duel.outcome]


# --- The README ------------------------------------------------------------------------------------------------------


def with_headline(readme: str, records: Sequence[Record], conditions: Iterable[Condition], machine: str) -> str:
    """The README with a new paragraph under its HEADLINE mark.

    The figures are those of SHOWN on the model TUNED_ON, over all videos under conditions with at least HEADLINE_STEPS
    steps and a sampler that draws no noise.

    Args:
        conditions: all conditions of that model.

    Raises:
        ValueError: there are no such records, or the README has no such mark.
    """
    chosen = [each for each in conditions if each.steps >= HEADLINE_STEPS and not each.draws_noise]
    measured = paired.places(records)
    found = {each: measured.get(Place(TUNED_ON, each.name), {}).get(SHOWN, {}) for each in chosen}
    every = [record for of in found.values() for record in of.values()]
    if not every:
        raise ValueError(f"no record of {' at '.join(SHOWN)} on the model {TUNED_ON} is there for the headline")
    ours = paired.point(Place(TUNED_ON, ""), SHOWN, every)
    less = f"the model ran {1 / ours.work:.2f}x less"
    faster = less if isnan(ours.time) else f"{1 / ours.time:.2f}x faster ({less})"
    of_each = [paired.point(Place(TUNED_ON, each.name), SHOWN, of.values()) for each, of in found.items() if of]
    worst = min(of_each, key=lambda point: point.psnr)
    paragraph = (
        f"**With preset auto at {SHOWN.setting}: {faster}, and {ours.psnr:.1f} dB PSNR to the video without AdaCache, "
        "on average.** Above 40 dB hardly anybody sees a difference; below 25 dB it is another video. The worst video "
        f"has {ours.worst_video:.1f} dB. The worst condition is {worst.place.condition}: {worst.psnr:.1f} dB on "
        f"average, and the model ran {1 / worst.work:.2f}x less. Measured on {ours.videos} videos of the small demo "
        f"model, on which auto was tuned, under {_conditions([each for each, of in found.items() if of])}, on "
        f"{machine}. [All conditions, other models, all other methods](docs/benchmarks.md).\n"
    )
    before, mark, after = readme.partition(HEADLINE + "\n")
    if not mark:
        raise ValueError(f"the README has no line {HEADLINE}")
    return before + mark + paragraph + after[after.index("\n") + 1 :]


def _conditions(chosen: Sequence[Condition]) -> str:
    if len(chosen) == 1:
        return chosen[0].name
    samplers = ", ".join(dict.fromkeys(condition.sampler for condition in chosen))
    spans = [_span([getattr(condition, name) for condition in chosen]) for name in ("steps", "shift", "cfg")]
    return f"{len(chosen)} conditions ({samplers}; {spans[0]} steps, shift {spans[1]}, cfg {spans[2]})"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
