"""The speed-up that a report claims is the one that a clock beside it sees. Ratios are compared, never times."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from host.running import on_call, sample, with_hook

STEPS = 16
SPIN = 0.04  # seconds of work: of a block, and of what comes with each step beside the model


def spin(*_):
    """Works, as a preview in the callback does, or a block of a real model."""
    begin = time.process_time()
    while time.process_time() - begin < SPIN:
        torch.ones(64).sum()


def seconds_of(wan, model):
    """Processor time of a run's steps, in which the model takes 80 ms, and what the host does beside it 40."""
    from comfy.samplers import KSAMPLER

    blocks, clock = [wan.module.blocks[index] for index in (0, 2)], {}

    def sampled(self, *args, run=KSAMPLER.sample, **kwargs):
        begin = time.process_time()
        answer = run(self, *args, **kwargs)
        clock["seconds"] = time.process_time() - begin
        return answer

    with pytest.MonkeyPatch.context() as patch, with_hook(*(on_call(b, spin, lambda *_: None) for b in blocks)):
        patch.setattr(KSAMPLER, "sample", sampled)
        sample(wan, model, steps=STEPS, callback=lambda *_: spin())
    return clock["seconds"]


@pytest.mark.parametrize("every", [2, 4])
@pytest.mark.parametrize("reuse", ["output", "blocks"])
def test_the_measured_speedup_is_that_of_the_processor(reuse, every, tiny, adacache, planned, pack, monkeypatch):
    """The run is timed by the processor's clock, too: what else the machine does is none of its business."""
    monkeypatch.setattr(pack.adacache_core.engine.time, "perf_counter", time.process_time)
    wan = tiny("Wan t2v")
    seconds_of(wan, wan.model)  # what the host does for a first run
    claimed, seen = [], []
    for _ in range(3):
        if reuse == "output":
            model, attachment = planned(wan.model, tuple(range(0, STEPS, every)), STEPS)
        else:
            model, attachment = adacache(wan.model, rate=every, steps=STEPS)
        seen.append(1 / seconds_of(wan, model))
        seen[-1] *= seconds_of(wan, wan.model)
        claimed.append(attachment.finished[-1].report.measured_speedup)
    counted = attachment.finished[-1].report.counted_speedup
    assert statistics.median(claimed) == pytest.approx(statistics.median(seen), rel=0.05)
    assert statistics.median(claimed) < 0.9 * counted  # what every step costs beside the model is not saved
