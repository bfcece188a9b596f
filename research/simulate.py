"""Which steps the paper's method would compute, from recorded probe residuals: no model runs."""

from __future__ import annotations

from torch import Tensor

from adacache_core import CacheConfig, Grid, RunReport, StepRecord
from adacache_core.decide.base import Course
from adacache_core.decide.change import change_sums
from adacache_core.decide.metric import BlockController, Sums
from adacache_core.decide.motion import motion_sums
from adacache_core.reuse.blocks import motion_unusable
from adacache_core.reuse.recording import Recording
from adacache_core.tell.report import COMPUTED, REUSED


def simulate(probes: Tensor, config: CacheConfig, *, frames: int | None = None) -> RunReport:
    """The schedule of a run that would have these residuals.

    Args:
        probes: (N, batch, frames * positions, width); row k is the residual that step k would produce if it were
            computed. Rows of reused steps are not read.
        config: settings of a policy that reuses residuals of blocks; `probe_stride`, `start` and `end` apply, and a
            codebook is scaled to N steps, as in a run. Runs of few steps are simulated as well.
        frames: latent frames, for MoReg and for taking the same positions of every frame.

    Returns:
        A report with one evaluation per step.
    """
    steps, _, tokens, _ = probes.shape
    controller = config.policy.controller(Course(steps, always=config.outside(steps)), config.moreg)
    assert isinstance(controller, BlockController), "this policy does not look at blocks"
    report = RunReport(model="simulate", sampler_steps=steps, codebook=controller.table)
    grid = Grid(frames, tokens // frames) if frames else None
    missing = motion_unusable(grid, config.moreg.strides) if config.moreg else ""
    report.notes += [f"MoReg off: {missing}"] * bool(missing)
    recording = Recording(grid=grid, stride=config.probe_stride)
    state, cached = controller.begin(), None
    for step in range(steps):
        decision = controller.decide(state, step)
        record = StepRecord(step, step, None, COMPUTED if decision.compute else REUSED, decision.reason)
        if decision.compute:
            probe, sums = recording.sample(probes[step]), None
            if cached is not None:
                of_frames = None
                if config.moreg is not None and grid is not None and not missing:
                    of_frames = motion_sums(probe, grid.frames, config.moreg.strides)
                sums = Sums(change_sums(probe, cached), of_frames)
            state, cached = controller.computed(state, step, sums), probe
            if sums is not None and state.reading is not None:
                record.metric, record.motion = state.reading.metric, state.reading.motion
                record.moreg = state.reading.moreg
        record.rate = state.rate
        record.calls, record.calls_computed = 1, int(decision.compute)
        report.evaluations.append(record)
    return report
