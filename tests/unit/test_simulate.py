"""Simulated schedules are those of runs with the same residuals."""

import math

import pytest
import torch
from torch import nn
from toys import Stack

from adacache_core import FAST_30, AdaCache, CacheConfig, MotionConfig, Off
from research.simulate import simulate

STEPS, FRAMES, POSITIONS, WIDTH = 30, 3, 8, 8
FAST = CacheConfig(FAST_30)


def attach(model, config=FAST, steps=STEPS):
    return AdaCache(model, blocks="blocks", head="head", steps=steps, config=config)


class Prescribed(nn.Module):
    """Adds the row of a table that belongs to the step."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.step = 0

    def forward(self, x):
        return x + self.rows[self.step]


def walk(seed=0, pace=0.1, frames=FRAMES):
    """Residuals of all steps, (N, 1, frames * positions, width), each a little further."""
    dice = torch.Generator().manual_seed(seed)
    steps = torch.randn(STEPS, 1, frames * POSITIONS, WIDTH, generator=dice)
    steps[1:] *= pace
    return steps.cumsum(0)


def measured(record):
    """The numbers of a record that are there."""
    numbers = {"metric": record.metric, "motion": record.motion, "moreg": record.moreg}
    return {name: number for name, number in numbers.items() if number is not None}


CONFIGS = {
    "plain": CacheConfig(FAST_30),
    "moreg": CacheConfig(FAST_30, MotionConfig(pivot=0.7)),
    "full probe": CacheConfig(FAST_30, MotionConfig(strides=(1, 2)), probe_stride=1),
    "start and end": CacheConfig(FAST_30, start=0.2, end=0.7),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("pace", [0.05, 0.2, 0.5])
def test_a_simulation_is_the_run_that_had_these_residuals(config, pace):
    rows = walk(pace=pace)
    block = Prescribed(rows)
    model = Stack(block)
    with attach(model, config) as run:
        for step in range(STEPS):
            block.step = step
            with run.evaluation(step), run.call("cond", FRAMES, POSITIONS):
                model(torch.zeros(1, FRAMES * POSITIONS, WIDTH))
    simulated = simulate(rows, config, frames=FRAMES)
    for ours, theirs in zip(simulated.evaluations, run.report.evaluations, strict=True):
        assert (ours.state, ours.reason, ours.rate) == (theirs.state, theirs.reason, theirs.rate)
        assert measured(ours) == pytest.approx(measured(theirs), rel=1e-5)
    assert simulated.schedule().computed == run.report.schedule().computed


def test_a_simulation_does_not_read_what_a_run_would_not_have_computed():
    rows = walk()
    report = simulate(rows, FAST, frames=FRAMES)
    for record in report.evaluations:
        if record.state == "reused":
            rows[record.step] = math.nan
    assert 0 < report.computed < STEPS
    assert simulate(rows, FAST, frames=FRAMES) == report


def test_faster_residuals_are_computed_more_often():
    computed = [simulate(walk(pace=pace), FAST, frames=FRAMES).computed for pace in (0.01, 0.2, 0.5)]
    assert computed == sorted(computed)
    assert computed[0] < computed[-1]


def test_a_simulation_looks_at_a_quarter_of_the_tokens_by_default():
    """What the probe does not look at may be anything."""
    rows = walk()
    report = simulate(rows, FAST, frames=FRAMES)
    seen = torch.zeros(FRAMES * POSITIONS, dtype=torch.bool)
    for token in range(FRAMES * POSITIONS):
        other = rows.clone()
        other[:, :, token] = 100 * torch.randn(STEPS, 1, WIDTH, generator=torch.Generator().manual_seed(token))
        seen[token] = simulate(other, FAST, frames=FRAMES) != report
    by_frame = seen.view(FRAMES, POSITIONS)
    assert seen.sum() == FRAMES * POSITIONS / 4
    assert torch.equal(by_frame, by_frame[:1].expand_as(by_frame))


def test_a_simulation_without_frames_measures_no_motion_and_says_so():
    report = simulate(walk(), CacheConfig(FAST_30, MotionConfig()))
    assert all(record.motion is None for record in report.evaluations)
    assert [note.startswith("MoReg off") for note in report.notes] == [True]


def test_a_simulation_of_settings_that_are_off_computes_everything():
    assert simulate(walk(), CacheConfig(Off()), frames=FRAMES).computed == STEPS
