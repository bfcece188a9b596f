"""Who is closer to the plain video at equal work: curves, and every peer's point against ours. Pure arithmetic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from .records import PLAIN, Record

OURS = "AdaCache"
ALL = "all"  # every motion class together


@dataclass(frozen=True)
class Point:
    """One setting of a method: means over the seeds of one motion class, or over all videos.

    Attributes:
        spread: standard deviation of psnr over the videos, dB; nan of one video.
        wall_ratio: of those videos whose time is known; nan if none is.
        The other fields are as in `Record`.
    """

    method: str
    setting: str
    sampler: str
    steps: int
    motion_class: str
    videos: int
    computed_fraction: float
    block_fraction: float
    wall_ratio: float
    psnr: float
    spread: float
    ssim: float
    motion_kept: float
    bytes: float

    @property
    def ours(self) -> bool:
        return self.method.startswith(OURS)


MEANS = ("computed_fraction", "block_fraction", "wall_ratio", "psnr", "ssim", "motion_kept", "bytes")


def points(records: Iterable[Record]) -> list[Point]:
    """One point per method, setting, sampler, number of steps and motion class, and one over all classes; no plain."""
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        if record.method != PLAIN:
            for motion_class in (record.motion_class, ALL):
                groups[(record.method, record.setting, record.sampler, record.steps, motion_class)].append(record)
    return [
        Point(
            *key,
            videos=len(group),
            spread=stdev(record.psnr for record in group) if len(group) > 1 else float("nan"),
            **{name: _mean(getattr(record, name) for record in group) for name in MEANS},
        )
        for key, group in groups.items()
    ]


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return mean(known) if known else float("nan")


def best_within(curve: Iterable[Point], fraction: float) -> Point | None:
    """The point of highest PSNR among those that compute no more than `fraction`; None if there is none."""
    return max(
        (point for point in curve if point.computed_fraction <= fraction), key=lambda point: point.psnr, default=None
    )


@dataclass(frozen=True)
class Duel:
    """A peer's point and the best of ours that computes no more."""

    peer: Point
    ours: Point | None

    @property
    def margin(self) -> float:
        """Our PSNR minus theirs, dB; minus infinity where we have nothing as cheap."""
        return float("-inf") if self.ours is None else self.ours.psnr - self.peer.psnr


def duels(all_points: Iterable[Point]) -> list[Duel]:
    """Every peer's point against ours, within the same sampler, number of steps and motion class.

    Where a peer computed everything there is nothing to win: that is the plain video.
    """
    groups: dict[tuple, list[Point]] = defaultdict(list)
    for point in all_points:
        groups[(point.sampler, point.steps, point.motion_class)].append(point)
    return [
        Duel(peer, best_within((point for point in group if point.ours), peer.computed_fraction))
        for group in groups.values()
        for peer in group
        if not peer.ours and peer.computed_fraction < 1
    ]
