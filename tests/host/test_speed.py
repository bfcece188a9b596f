"""The speed-up that a report claims is the one that a clock beside it sees."""

from __future__ import annotations

import pytest
from host.running import on_call, sample, with_hook

STEPS = 16
WORK = 0.04  # seconds: of a block, and of what comes with each step beside the model


class Clock:
    """Goes on by what the work of a run would take, and by nothing else: the load of this machine changes nothing."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *_) -> None:
        self.now += WORK


def seconds_of(clock, wan, model):
    """Of a run in which the model takes 80 ms, and what the host does at each step, such as a preview, 40."""
    begin = clock.now
    blocks = [wan.module.blocks[index] for index in (0, 2)]
    with with_hook(*(on_call(block, clock.work, lambda *_: None) for block in blocks)):
        sample(wan, model, steps=STEPS, callback=clock.work)
    return clock.now - begin


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("reuse", ["output", "blocks"])
def test_the_measured_speedup_is_that_of_the_clock(reuse, every, tiny, adacache, planned, pack, monkeypatch):
    clock, wan = Clock(), tiny("Wan t2v")
    monkeypatch.setattr(pack.adacache_core.clock.time, "perf_counter", clock)
    if reuse == "output":
        model, attachment = planned(wan.model, tuple(range(0, STEPS, every)), STEPS)
    else:
        model, attachment = adacache(wan.model, rate=every, steps=STEPS)
    cached = seconds_of(clock, wan, model)
    plain = seconds_of(clock, wan, wan.model)
    report = attachment.finished[-1].report
    assert plain == pytest.approx(3 * WORK * STEPS)
    assert report.measured_speedup == pytest.approx(plain / cached, rel=0.02)
    assert report.measured_speedup < 0.9 * report.counted_speedup  # what every step costs beside the model is not saved
