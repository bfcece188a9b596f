"""TeaCache and MagCache in a host on which they import: off they are plain, on they skip what their authors say.

Run by test_old_packs.py in a process of its own: two hosts cannot be imported together.
"""

import math
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pytest
from benchmark.step_by_step import STEPS, VIDEO, Ran

from research.benchmark import plan, worker
from research.benchmark.fitted import seen
from research.benchmark.host_caches import OLD_PACKS, fitted_on, old_host
from research.benchmark.library import Bench, OnHost
from research.benchmark.meter import Meter


@pytest.fixture(scope="module")
def bench():
    """A method that calibrates on a single video."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "CALIBRATION", plan.CALIBRATION[:1])
        yield Bench(old_host())


@pytest.fixture(scope="module")
def ran(bench):
    return Ran(bench, OLD_PACKS)


@pytest.fixture(scope="module")
def fit(bench):
    return fitted_on(bench, replace(VIDEO, part=(0, STEPS)))


@pytest.fixture(scope="module")
def plain_calls(bench):
    """The calls of the model during the plain video, and their results."""
    with ExitStack() as stack:
        runs = []

        def look(bench, model, setting, case):
            runs.append(stack.enter_context(seen(model.model.diffusion_model)))
            return model

        bench.sample(VIDEO, Meter(), OnHost("looked at", {}, attach=look))
    (calls,) = runs
    return calls


def step_of(fraction):
    """The first step at or after this fraction of the run."""
    return math.ceil(fraction * STEPS)


def test_off_is_plain_bit_for_bit(bench):
    worker.check_off(bench, OLD_PACKS)


@pytest.mark.parametrize("name", [method.name for method in OLD_PACKS])
def test_the_blocks_are_skipped_and_nothing_else(ran, name):
    works = ran.skipped_work(name, *ran.boldest(name))
    assert len(works) >= STEPS // 3
    assert all(0 < work < 0.02 for work in works)


@pytest.mark.parametrize(
    ("name", "signal", "fitted"),
    [
        ("TeaCache pack", "embedding", "teacache"),
        ("TeaCache pack, retention", "projection", "teacache_retention"),
    ],
)
def test_teacache_skips_while_the_estimated_change_of_the_output_stays_below_its_threshold(
    ran, fit, plain_calls, name, signal, fitted
):
    values = [getattr(call, signal)[0].numpy() for call in plain_calls]
    changes = [np.abs(after - before).mean() / np.abs(before).mean() for before, after in pairwise(values)]
    estimates = np.polyval(getattr(fit, fitted), changes)
    for label in ran.boldest(name, 2):
        setting = ran.methods[name].settings[label]
        expected, distance = [True], 0.0
        for step, estimate in enumerate(estimates, start=1):
            distance += estimate
            due = distance >= setting["rel_l1_thresh"]
            distance = 0.0 if due else distance
            expected.append(due or step < step_of(setting["start_percent"]))
        assert ran.computed(name, label) == expected


def test_magcache_skips_while_the_error_stays_below_its_threshold_and_never_more_than_k_in_a_row(ran, fit):
    for label in ran.boldest("MagCache pack", 2):
        setting = ran.methods["MagCache pack"].settings[label]
        expected, ratio, error, skipped = [], 1.0, 0.0, 0
        for step, scale in enumerate(fit.magcache):
            if step < int(setting["retention_ratio"] * STEPS):
                expected.append(True)
                continue
            ratio, skipped = ratio * scale, skipped + 1
            error += abs(1 - ratio)
            due = error > setting["magcache_thresh"] or skipped > setting["magcache_K"]
            if due:
                ratio, error, skipped = 1.0, 0.0, 0
            expected.append(due)
        assert ran.computed("MagCache pack", label) == expected
        assert max(len([*group]) for computed, group in groupby(expected) if not computed) <= setting["magcache_K"]
