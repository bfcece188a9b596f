"""AdaCache's settings, and the fixed intervals that any adaptive method has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from diffusers import WanTransformer3DModel

from adacache_core import FAST_30, SLOW_30, TUNED_30, CacheConfig, Codebook, MotionConfig, auto
from tools import demo_model

from .library import Method
from .videos import CFG, Video


@contextmanager
def adacache(model: WanTransformer3DModel, config: CacheConfig, video: Video) -> Iterator[demo_model.Evaluate]:
    context = demo_model.guided_context(video.prompt, CFG)
    with demo_model.cached(model, context, video.steps, CFG, config, sampler=video.sampler) as (evaluate, _):
        yield evaluate


@contextmanager
def fixed(
    model: WanTransformer3DModel, planned: Callable[[int], set[int]], video: Video
) -> Iterator[demo_model.Evaluate]:
    """The steps of `planned(steps)` are computed, whatever the video."""
    context = demo_model.guided_context(video.prompt, CFG)
    schedule = planned(video.steps)
    with demo_model.cached(model, context, video.steps, CFG, schedule=schedule, sampler=video.sampler) as (evaluate, _):
        yield evaluate


def every(interval: int) -> Callable[[int], set[int]]:
    """FORA's schedule: the first step and every `interval`-th after it."""
    return lambda steps: set(range(0, steps, interval))


def protected(fraction: float) -> Callable[[int], set[int]]:
    """As many steps as `fraction` of all, evenly, with our forced ones: the first and the last two."""
    return lambda steps: evenly(round(fraction * steps), steps)


def evenly(computed: int, steps: int) -> set[int]:
    """The first step, the last two, and `computed` - 3 more evenly spread between."""
    between = max(computed - 1, 2)
    return {round(index * (steps - 2) / (between - 1)) for index in range(between)} | {steps - 2, steps - 1}


def stricter(table: Codebook, factor: float) -> Codebook:
    """The table with every threshold but the last times `factor`."""
    *rows, last = table.entries
    return Codebook((*((threshold * factor, rate) for threshold, rate in rows), last), table.steps)


def _sweep(table: Codebook) -> dict[str, CacheConfig]:
    return {f"thresholds x {factor:g}": CacheConfig(stricter(table, factor)) for factor in (0.5, 1.0, 1.5)}


def _with_moreg(table: Codebook) -> dict[str, CacheConfig]:
    return {"as published": CacheConfig(table, MotionConfig())}


TABLES = {"fast": FAST_30, "slow": SLOW_30, "tuned": TUNED_30}

OFF = CacheConfig(FAST_30, enabled=False)

TARGETS = (
    *(1.04, 1.08, 1.1, 1.15, 1.25, 1.3, 1.36, 1.4, 1.42, 1.5, 1.55, 1.65, 1.75, 1.85, 2.0, 2.2, 2.35, 2.5),
    *(2.8, 3.0, 3.2, 3.4, 3.6, 4.0, 4.2, 4.6, 5.0, 6.0, 8.0),
)


def _auto(targets: Iterable[float], **changes: Any) -> dict[str, CacheConfig]:
    return {f"{target:g}x": replace(auto(target), **changes) for target in targets}


METHODS = (
    Method("AdaCache auto", _auto(TARGETS), adacache, OFF, everywhere=True),
    Method("AdaCache auto + MoReg", _auto((2.0,), moreg=MotionConfig()), adacache, OFF),
    Method("AdaCache auto, residuals held", _auto((2.0, 3.2), forecast=False), adacache, OFF),
    Method("AdaCache auto, not corrected", _auto((2.0, 3.2), correct=False), adacache, OFF),
    Method("AdaCache auto, held, not corrected", _auto((2.0, 3.2), forecast=False, correct=False), adacache, OFF),
    *(Method(f"AdaCache {name}", _sweep(table), adacache, OFF) for name, table in TABLES.items()),
    *(Method(f"AdaCache {name} + MoReg", _with_moreg(table), adacache, OFF) for name, table in TABLES.items()),
    Method("fixed interval (FORA)", {f"every {n}": every(n) for n in (2, 3, 4)}, fixed, off=every(1)),
    Method(
        "fixed interval, ends computed",
        {f"{fraction:g} of all": protected(fraction) for fraction in (0.6, 0.5, 0.4, 0.33, 0.27)},
        fixed,
        off=protected(1.0),
    ),
)
