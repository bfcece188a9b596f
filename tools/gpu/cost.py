"""Measures a step at real size: plain, computed, reused, embedding and head alone; and the peak of memory.

Random weights cost the same as trained ones. A measurement that would take too long or does not fit says so.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from . import hosted, models
from .job import Job
from .rows import Row, Rows

GIB = 2**30
PLAIN_STEPS = 3  # the first is a warm-up and does not count


# How AdaCache reuses, and for residuals of blocks where they are kept.
AUTO, ON_CARD, OFFLOADED = (hosted.AUTO, ""), (hosted.TABLE, "main"), (hosted.TABLE, "offload")


@dataclass(frozen=True)
class Measurement:
    """Measures one model in one dtype, with each of these ways to reuse."""

    model: str
    weights: str
    ways: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        return f"{self.model}, {self.weights}"


MEASUREMENTS = (
    Measurement("Wan 1.3B", "bfloat16", (AUTO, ON_CARD, OFFLOADED)),
    Measurement("Wan 14B", "bfloat16", (AUTO, ON_CARD)),
    Measurement("HunyuanVideo", "bfloat16", (AUTO, ON_CARD, OFFLOADED)),
    Measurement("MiniMax-H3", "bfloat16", (AUTO, ON_CARD)),
    Measurement("Wan 1.3B", "float8_e4m3fn", (AUTO, ON_CARD)),
    Measurement("Wan 14B", "float8_e4m3fn", (AUTO, OFFLOADED)),
)
REHEARSED = (
    Measurement("Wan, tiny", "float32", (AUTO, ON_CARD, OFFLOADED)),
    Measurement("HunyuanVideo, tiny", "float32", (AUTO, ON_CARD)),
    Measurement("MiniMax-H3, tiny", "float32", (AUTO, ON_CARD)),
    Measurement("Wan, tiny", "float8_e4m3fn", (OFFLOADED,)),
)


def run(job: Job, rows: Rows) -> None:
    hosted.start(hosted.CPU if job.rehearse else hosted.VRAM_MODES["--highvram"])  # weights stay where they are made
    for measurement in REHEARSED if job.rehearse else MEASUREMENTS:
        labels: Row = {"model": models.SHAPES[measurement.model].says, "weights": measurement.weights}
        try:
            _measure(job, rows, measurement, labels)
        except (torch.OutOfMemoryError, RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
            # A failure of one model says nothing about the next.
            known = isinstance(error, torch.OutOfMemoryError)
            reason = "does not fit on this card" if known else f"{type(error).__name__}: {str(error)[:200]}"
            rows.put(f"{measurement.key}, end", {**labels, "not_run": reason} | ({} if known else {"ok": False}))
        gc.collect()
        if not job.rehearse:
            torch.cuda.empty_cache()


def _measure(job: Job, rows: Rows, measurement: Measurement, labels: Row) -> None:
    if job.left < 10:
        rows.put(measurement.key, {**labels, "not_run": "no time was left"})
        return
    computing = torch.float32 if job.rehearse else torch.bfloat16
    made = models.build(measurement.model, getattr(torch, measurement.weights), computing)
    with peak(job) as plain_peak:
        plain = median(seconds_of(job, made, made.model, PLAIN_STEPS)[1:])
    with emptied(made):
        bare = median(seconds_of(job, made, made.model, PLAIN_STEPS)[1:])
    row = labels | {"plain_s": plain, "bare_s": bare, "peak_plain_gib": plain_peak()}
    for way, place in measurement.ways:
        key, row = f"{measurement.key}, {way} {place}", row | {"way": way, "place": place}
        most = hosted.STEPS if way == hosted.AUTO else hosted.COMPUTED  # of random weights auto may skip little
        needed = (most + 1) * plain
        if needed > job.left:
            rows.put(key, {**row, "not_run": f"needs {needed:.0f} s more, {job.left:.0f} s were left"})
            continue
        model, attachment = hosted.with_adacache(made.model, way, offload=place == "offload")
        rows.put(key, {**row, "not_run": "cut off in it"})
        with peak(job) as cached_peak:
            each = seconds_of(job, made, model, hosted.STEPS)
        rows.put(key, row | {"peak_gib": cached_peak()} | _figures(each, attachment, plain))


def _figures(each: list[float], attachment: Any, plain: float) -> Row:
    report = attachment.finished[-1].report
    by_state: dict[str, list[float]] = {"computed": [], "reused": []}
    for record, seconds in zip(report.evaluations, each, strict=True):
        by_state.setdefault(record.state, []).append(seconds)
    realised = len(each) * plain / sum(each)
    return {
        "computed_s": median(by_state["computed"]),
        "reused_s": median(by_state["reused"]),
        "counted": report.counted_speedup,
        "realised": realised,
        "realised_over_counted": realised / report.counted_speedup,
    }


def seconds_of(job: Job, made: models.Made, model: Any, steps: int) -> list[float]:
    """Seconds of each evaluation until the next one begins, by the device's own clock."""
    from comfy.patcher_extension import WrappersMP

    marks: list[Any] = []

    def marking(executor: Any, *args: Any, **kwargs: Any) -> Any:
        marks.append(_mark(job))
        return executor(*args, **kwargs)

    def callback(step: int, *args: Any) -> None:
        if step == steps - 1:
            marks.append(_mark(job))

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "stopwatch", marking)
    models.sample(made, model, steps, callback)
    return [_between(begin, end) for begin, end in pairwise(marks)]


def _mark(job: Job) -> Any:
    if job.rehearse:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begin: Any, end: Any) -> float:
    if isinstance(end, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000


@contextmanager
def emptied(made: models.Made) -> Iterator[None]:
    """The model without its blocks: embedding and head alone."""
    stacks = {name: getattr(made.module, name) for name in made.shape.stacks}
    for name in stacks:
        setattr(made.module, name, nn.ModuleList())
    try:
        yield
    finally:
        for name, blocks in stacks.items():
            setattr(made.module, name, blocks)


@contextmanager
def peak(job: Job) -> Iterator[Callable[[], float | None]]:
    """Yields a function that returns the peak of tensors on the card in this context, weights included, in GiB."""
    if job.rehearse:
        yield lambda: None
        return
    torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / GIB
