"""Who is closer to the plain video at equal work: one setting against one setting, video by video. Pure arithmetic.

Ours are held to a dial: the few settings of preset auto, fixed beforehand. To choose the best of many settings of ours
for every one of a rival's would flatter us.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, nan
from statistics import fmean
from typing import NamedTuple

import numpy as np

from .records import BROKEN, PLAIN, Record

OURS = "AdaCache auto"  # its settings are the dial; whatever else begins like this is ours too, and no rival

# Of the rival's work, by which ours may exceed it: as many steps are not as much work to the last digit.
TOLERANCE = 0.005

RESAMPLES = 10_000
SEED = 18
CONFIDENCE = 0.95
# Of equals, one wins 5 videos of 5 once in 16 times, which is no news at 95 %, and 6 of 6 once in 32, which is.
ENOUGH_VIDEOS = 6

# Of what is chosen at a speed: so much of the work that the speed allows, at most and at least.
MOST, LEAST = 1.05, 0.8
NEAR_BEST = 1.0  # dB

# What of a record is the larger, the closer the video is to the plain one.
MEASURES: Mapping[str, Callable[[Record], float]] = {
    "psnr": lambda record: record.psnr,
    "worst_frame": lambda record: record.worst_frame,
    "ssim": lambda record: record.ssim,
    "lpips": lambda record: -record.lpips,
    "motion_kept": lambda record: -abs(1 - record.motion_kept),
}


class Place(NamedTuple):
    """Where methods meet."""

    model: str
    condition: str


class Choice(NamedTuple):
    """Who, and where the control stands."""

    method: str
    setting: str


Video = tuple[str, int]  # `Record.video`
Places = dict[Place, dict[Choice, dict[Video, Record]]]


def broken(records: Iterable[Record]) -> set[tuple[Place, Video]]:
    """The videos that are broken without any cache."""
    return {
        (Place(record.model, record.condition), record.video)
        for record in records
        if (record.method, record.setting) == (PLAIN, BROKEN)
    }


def places(records: Sequence[Record]) -> Places:
    """The records by where, who and which video, without the plain ones and without what was made of broken videos."""
    left_out = broken(records)
    found: Places = defaultdict(lambda: defaultdict(dict))
    for record in records:
        place = Place(record.model, record.condition)
        if record.method != PLAIN and (place, record.video) not in left_out:
            found[place][Choice(record.method, record.setting)][record.video] = record
    return {place: dict(choices) for place, choices in found.items()}


@dataclass(frozen=True)
class Point:
    """One choice in one place, over its videos.

    Attributes:
        videos: how many.
        time: of those videos whose time is known; nan if none is.
        worst_video: least PSNR of a video, dB. worst_frame: least PSNR of a frame, dB.
        bytes: the most of any video.
        The other fields are means of those of `Record`.
    """

    place: Place
    choice: Choice
    videos: int
    work: float
    blocks: float
    time: float
    psnr: float
    worst_video: float
    worst_frame: float
    ssim: float
    lpips: float
    motion_kept: float
    closeness: float
    bytes: int


MEANS = ("work", "blocks", "psnr", "ssim", "lpips", "motion_kept", "closeness")


def point(place: Place, choice: Choice, records: Iterable[Record]) -> Point:
    """Of at least one record."""
    records = list(records)
    times = [record.time for record in records if record.time is not None]
    return Point(
        place,
        choice,
        len(records),
        time=fmean(times) if times else nan,
        worst_video=min(record.psnr for record in records),
        worst_frame=min(record.worst_frame for record in records),
        bytes=max(record.bytes for record in records),
        **{name: float(np.mean([getattr(record, name) for record in records])) for name in MEANS},
    )


def points(measured: Places) -> dict[Place, list[Point]]:
    """One for every choice."""
    return {
        place: [point(place, choice, of.values()) for choice, of in choices.items()]
        for place, choices in measured.items()
    }


# --- One setting against one setting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Ours minus theirs, mean over videos, larger the closer ours is, with its bootstrap interval over videos.

    Attributes:
        mean: dB of psnr and worst_frame.
        low, high: of CONFIDENCE; infinite of fewer videos than ENOUGH_VIDEOS.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Duel:
    """A setting of a rival against the position of our dial that does as much work or less, over the same videos.

    Attributes:
        theirs, ours: over the videos of this duel. ours is None where every position does more work.
        won: share of the videos in which our PSNR is higher; a draw is half a video. nan without ours.
        differences: of each of MEASURES; of motion_kept it is the distance from 1 that counts. Empty without ours.
    """

    theirs: Point
    ours: Point | None
    won: float
    differences: dict[str, Difference]

    @property
    def place(self) -> Place:
        return self.theirs.place

    @property
    def outcome(self) -> str:
        """Who is closer in PSNR: "ours" or "theirs" where the interval excludes 0, else "level"; "no match" without
        ours."""
        if self.ours is None:
            return "no match"
        psnr = self.differences["psnr"]
        return "ours" if psnr.low > 0 else "theirs" if psnr.high < 0 else "level"


def duels(measured: Places) -> list[Duel]:
    """One for every setting of every rival that leaves out some of the work, where the dial was measured too."""
    found = []
    for place, choices in measured.items():
        dial = {choice: of for choice, of in choices.items() if choice.method == OURS}
        for choice, theirs in choices.items():
            if not choice.method.startswith(OURS) and fmean(record.work for record in theirs.values()) < 1:
                found += _duel(place, choice, theirs, dial)
    return found


def _duel(
    place: Place, choice: Choice, theirs: Mapping[Video, Record], dial: Mapping[Choice, Mapping[Video, Record]]
) -> list[Duel]:
    """One, or none where no video was made by both."""
    shared = {position: theirs.keys() & of.keys() for position, of in dial.items()}
    most = max(map(len, shared.values()), default=0)
    if most == 0:
        return []
    # A position that is still being measured would meet the rival on other videos than its neighbours do.
    able = [position for position, videos in shared.items() if len(videos) == most]
    work = {
        position: tuple(fmean(of[video].work for video in shared[position]) for of in (dial[position], theirs))
        for position in able
    }
    not_above = [position for position, (ours, limit) in work.items() if ours <= limit * (1 + TOLERANCE)]
    if not not_above:
        return [Duel(point(place, choice, theirs.values()), None, nan, {})]
    position = max(not_above, key=lambda each: (work[each][0], each))
    pairs = [(dial[position][video], theirs[video]) for video in sorted(shared[position])]
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    values = np.array([[closer(us) - closer(them) for closer in MEASURES.values()] for us, them in pairs])
    won = float(np.mean((np.sign(values[:, 0]) + 1) / 2))
    differences = dict(zip(MEASURES, _differences(values), strict=True))
    return [Duel(point(place, choice, theirs), point(place, position, ours), won, differences)]


def _differences(values: np.ndarray) -> list[Difference]:
    """Of each column of (videos, measures)."""
    means = values.mean(axis=0).tolist()
    if len(values) < ENOUGH_VIDEOS:
        return [Difference(each, -inf, inf) for each in means]
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(_draws(len(values)) @ values, tails, axis=0).tolist()
    return [Difference(*each) for each in zip(means, low, high, strict=True)]


@cache
def _draws(videos: int) -> np.ndarray:
    """(RESAMPLES, videos): how often each is drawn, over how many are. Every duel of as many videos has the same."""
    dice = np.random.default_rng(SEED)
    return dice.multinomial(videos, np.full(videos, 1 / videos), size=RESAMPLES) / videos


def ahead(fought: Iterable[Duel]) -> dict[Place, list[Duel]]:
    """Those that theirs won, by place, the furthest ahead first."""
    found: dict[Place, list[Duel]] = defaultdict(list)
    for duel in sorted(fought, key=lambda duel: duel.differences["psnr"].mean if duel.ours else inf):
        if duel.outcome == "theirs":
            found[duel.place].append(duel)
    return dict(found)


# --- At a speed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtSpeed:
    """A method at one speed, over the places in which a setting of it is about that fast.

    Attributes:
        psnr: dB, mean over places. worst_video, worst_frame: the least in any place, dB.
        near_best: in how many places it is within NEAR_BEST of the best method there.
        places: how many there are.
    """

    psnr: float
    worst_video: float
    worst_frame: float
    near_best: int
    places: int


def at_speed(measured: Iterable[Sequence[Point]], speed: float) -> dict[str, AtSpeed]:
    """The methods that have a setting at this speed, with how they do where somebody else has one, too.

    Args:
        measured: the points of each place, values of `points`.
        speed: 2 is half of plain's work.
    """
    of_method: dict[str, list[tuple[Point, float]]] = defaultdict(list)
    for here in measured:
        chosen = fastest_allowed(here, speed)
        if all(method.startswith(OURS) for method in chosen):  # nobody to be better than
            continue
        best = max((one.psnr for one in chosen.values()), default=nan)
        for method, one in chosen.items():
            of_method[method].append((one, best))
    return {
        method: AtSpeed(
            fmean(one.psnr for one, _ in found),
            min(one.worst_video for one, _ in found),
            min(one.worst_frame for one, _ in found),
            sum(one.psnr >= best - NEAR_BEST for one, best in found),
            len(found),
        )
        for method, found in of_method.items()
    }


def fastest_allowed(here: Iterable[Point], speed: float) -> dict[str, Point]:
    """Of each method in one place the setting of most work, within LEAST to MOST of what the speed allows.

    Methods without such a setting are missing.
    """
    chosen: dict[str, Point] = {}
    for one in sorted(here, key=lambda one: one.work):
        if LEAST / speed <= one.work <= MOST / speed:
            chosen[one.choice.method] = one
    return chosen
