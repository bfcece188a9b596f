"""Which method is closer to the plain video at equal work: one setting against one setting, video by video.

Other methods are compared with the *dial*: a few settings of preset auto, fixed in advance. If we chose the best of
many settings of ours for each of theirs, the comparison would favour us.
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

OURS = "AdaCache auto"  # its settings are the dial; other names that begin like this are also ours, and no rivals

# Share of the rival's work by which ours may exceed it, because equal numbers of steps are not exactly equal work.
TOLERANCE = 0.005

RESAMPLES = 10_000
SEED = 18
CONFIDENCE = 0.95
# Of two equal methods, one wins 5 of 5 videos once in 16 times, which is not significant at 95 %; 6 of 6 once in 32.
ENOUGH_VIDEOS = 6
FEW = "too few videos"

# A setting counts for a speed if its work is between these shares of what the speed allows.
MOST, LEAST = 1.05, 0.8
NEAR_BEST = 1.0  # dB

# Measures of a record that are larger if the video is closer to the plain one.
MEASURES: Mapping[str, Callable[[Record], float]] = {
    "psnr": lambda record: record.psnr,
    "worst_frame": lambda record: record.worst_frame,
    "ssim": lambda record: record.ssim,
    "lpips": lambda record: -record.lpips,
    "motion_kept": lambda record: -abs(1 - record.motion_kept),
}


class Place(NamedTuple):
    """A model and a condition, under which methods are compared."""

    model: str
    condition: str


class Choice(NamedTuple):
    """A method and its setting."""

    method: str
    setting: str


Video = tuple[str, int]  # `Record.video`
Places = dict[Place, dict[Choice, dict[Video, Record]]]


def broken(records: Iterable[Record]) -> set[tuple[Place, Video]]:
    """The videos that came out broken without any cache."""
    return {
        (Place(record.model, record.condition), record.video)
        for record in records
        if (record.method, record.setting) == (PLAIN, BROKEN)
    }


def places(records: Sequence[Record]) -> Places:
    """Records by place, choice and video; without plain records and those of broken videos."""
    left_out = broken(records)
    found: Places = defaultdict(lambda: defaultdict(dict))
    for record in records:
        place = Place(record.model, record.condition)
        if record.method != PLAIN and (place, record.video) not in left_out:
            found[place][Choice(record.method, record.setting)][record.video] = record
    return {place: dict(choices) for place, choices in found.items()}


@dataclass(frozen=True)
class Point:
    """One choice in one place: its figures over all videos.

    Attributes:
        videos: how many.
        time: mean over the videos whose time is known; nan if there are none.
        worst_video: lowest PSNR of a video, dB.
        worst_frame: lowest PSNR of a frame, dB.
        bytes: the most for any video.
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
    """The figures of at least one record."""
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
    """The figures of every choice, by place."""
    return {
        place: [point(place, choice, of.values()) for choice, of in choices.items()]
        for place, choices in measured.items()
    }


# --- One setting against one setting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Mean over videos of ours minus theirs, positive if ours is closer, with its bootstrap interval.

    Attributes:
        mean: in dB for psnr and worst_frame.
        low, high: interval of CONFIDENCE; infinite for fewer than ENOUGH_VIDEOS videos.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Duel:
    """A setting of a rival against the setting of our dial that does as much work or less, over the same videos.

    Attributes:
        place: model and condition.
        theirs, ours: figures over the videos of this duel; ours is None if every setting of ours does more work.
        won: share of the videos in which our PSNR is higher; a draw counts half. nan without ours.
        differences: for each of MEASURES; for motion_kept, of the distance from 1. Empty without ours.
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
        """Which is closer in PSNR: "ours" or "theirs" if the interval excludes 0, else "level"; "no match" without
        ours, FEW with fewer than ENOUGH_VIDEOS videos."""
        if self.ours is None:
            return "no match"
        if self.ours.videos < ENOUGH_VIDEOS:
            return FEW
        psnr = self.differences["psnr"]
        return "ours" if psnr.low > 0 else "theirs" if psnr.high < 0 else "level"


def duels(measured: Places) -> list[Duel]:
    """The duels of every setting of every rival that skips some work, in places where the dial was measured too."""
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
    """The duel, or nothing if there is no video that both made."""
    shared = {position: theirs.keys() & of.keys() for position, of in dial.items()}
    most = max(map(len, shared.values()), default=0)
    if most == 0:
        return []
    # A setting that is not fully measured would be compared on other videos than its neighbours.
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
    """The difference for each column of (videos, measures)."""
    means = values.mean(axis=0).tolist()
    if len(values) < ENOUGH_VIDEOS:
        return [Difference(each, -inf, inf) for each in means]
    tails = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(_draws(len(values)) @ values, tails, axis=0).tolist()
    return [Difference(*each) for each in zip(means, low, high, strict=True)]


@cache
def _draws(videos: int) -> np.ndarray:
    """Bootstrap weights (RESAMPLES, videos), the same for every duel with this number of videos."""
    dice = np.random.default_rng(SEED)
    return dice.multinomial(videos, np.full(videos, 1 / videos), size=RESAMPLES) / videos


def ahead(fought: Iterable[Duel]) -> dict[Place, list[Duel]]:
    """The duels that rivals won, by place, the furthest ahead first."""
    found: dict[Place, list[Duel]] = defaultdict(list)
    for duel in sorted(fought, key=lambda duel: duel.differences["psnr"].mean if duel.ours else inf):
        if duel.outcome == "theirs":
            found[duel.place].append(duel)
    return dict(found)


# --- At a speed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtSpeed:
    """A method at one speed, over the places in which one of its settings has about this speed.

    Attributes:
        psnr: dB, mean over places.
        worst_video, worst_frame: lowest PSNR in any place, dB.
        near_best: in how many places it is within NEAR_BEST dB of the best method.
        places: how many places there are.
    """

    psnr: float
    worst_video: float
    worst_frame: float
    near_best: int
    places: int


def at_speed(measured: Iterable[Sequence[Point]], speed: float) -> dict[str, AtSpeed]:
    """Method -> its figures at this speed, over the places in which another method has this speed, too.

    Args:
        measured: the points of each place, the values of `points`.
        speed: 2 means half of the plain run's work.
    """
    of_method: dict[str, list[tuple[Point, float]]] = defaultdict(list)
    for here in measured:
        chosen = fastest_allowed(here, speed)
        if all(method.startswith(OURS) for method in chosen):  # there is nothing to compare with
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
    """Method -> its setting in one place with the most work within LEAST to MOST of what the speed allows.

    Methods without such a setting are left out.
    """
    chosen: dict[str, Point] = {}
    for one in sorted(here, key=lambda one: one.work):
        if LEAST / speed <= one.work <= MOST / speed:
            chosen[one.choice.method] = one
    return chosen
