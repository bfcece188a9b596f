"""How long the evaluations of a run took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Times evaluations without waiting for the GPU: it records events there, and reads them at the end of the run.

    An evaluation lasts until the next one begins, because skipping does not save the time of sampler and preview. The
    work of AdaCache itself is timed apart, because without AdaCache there would be none.
    """

    def __init__(self) -> None:
        self._now: Callable[[], Any] = time.perf_counter
        self._begins: list[Any] = []
        self._own: list[tuple[int, Any, Any]] = []  # evaluation, begin, end

    def lap(self, device: torch.device | None) -> None:
        """An evaluation begins on this device; None is the CPU."""
        self._now = _cuda_event if device is not None and device.type == "cuda" else time.perf_counter
        self._begins.append(self._now())

    @contextmanager
    def own(self) -> Iterator[None]:
        """Times the work of AdaCache itself, within an evaluation."""
        begin = self._now()
        try:
            yield
        finally:
            self._own.append((len(self._begins) - 1, begin, self._now()))

    def read(self) -> list[tuple[float, float]]:
        """For each evaluation, its seconds and those of AdaCache's own work; waits for the GPU, once."""
        ends = [*self._begins[1:], self._now()]
        own = [0.0] * len(self._begins)
        for evaluation, begin, end in self._own:
            own[evaluation] += _seconds(begin, end)
        return list(zip(map(_seconds, self._begins, ends), own, strict=False))


def _cuda_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Any, end: Any) -> float:
    if isinstance(end, float):
        return end - begin
    end.synchronize()
    return begin.elapsed_time(end) / 1000
