"""How long the evaluations of a run took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Times evaluations without waiting for the GPU: events there, read at the end of the run.

    An evaluation lasts until the next one begins: what the sampler and a preview take is not saved by skipping. What
    AdaCache itself does in it is timed as well, for without AdaCache it would not be done.
    """

    def __init__(self) -> None:
        self._now: Callable[[], Any] = time.perf_counter
        self._begins: list[Any] = []
        self._own: list[tuple[int, Any, Any]] = []  # evaluation, begin, end

    def lap(self, device: torch.device | None) -> None:
        """An evaluation begins, on this device; None is the CPU."""
        self._now = _cuda_event if device is not None and device.type == "cuda" else time.perf_counter
        self._begins.append(self._now())

    @contextmanager
    def own(self) -> Iterator[None]:
        """Work of AdaCache's, within an evaluation."""
        begin = self._now()
        try:
            yield
        finally:
            self._own.append((len(self._begins) - 1, begin, self._now()))

    def read(self) -> list[tuple[float, float]]:
        """Seconds per evaluation, the last one until now, and AdaCache's own work in them; waits for the GPU, once."""
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
