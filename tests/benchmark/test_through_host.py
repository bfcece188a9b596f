"""The peers that live in a ComfyUI: off they are plain, and on they skip what and where their authors say.

Each host is run once, in its own Python, which is told that there is no diffusers.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark.in_host import STEPS, VIDEO

from adacache_core import auto
from tools import demo_model
from tools.benchmark.library import NotHere
from tools.benchmark.videos import CFG
from tools.benchmark.worker import library_class

HERE = Path(__file__).parent
NATIVE = ("EasyCache", "LazyCache")
LATENT_BYTES = 16 * 8 * 16 * 16 * 4
START, END = 0.15, 0.95  # of the native nodes


@dataclass(frozen=True)
class Ran:
    """What in_host.py told of one library."""

    told: dict
    latents: dict[str, torch.Tensor]

    def computed(self, run: str) -> list[bool]:
        """For each step whether all blocks ran; a step that ran some of them is an error."""
        plain, blocks = (self.told["runs"][name]["blocks"] for name in ("plain", run))
        assert all(ran in (0, full) for ran, full in zip(blocks, plain, strict=True))
        return [ran > 0 for ran in blocks]

    def skipped_work(self, run: str) -> list[float]:
        """Operations of each skipped step, of those of plain."""
        plain, flops = (self.told["runs"][name]["flops"] for name in ("plain", run))
        return [work / full for work, full, ran in zip(flops, plain, self.computed(run), strict=True) if not ran]

    def runs_of(self, method: str) -> list[tuple[str, dict]]:
        """Names and settings of the runs in which it was on."""
        settings = self.told["settings"][method].items()
        return [(f"{method}, {label}", setting) for label, setting in settings if f"{method}, {label}" in self.latents]


def ran(library: str, folder: Path) -> Ran:
    try:
        python = library_class(library).python()
    except NotHere as reason:
        pytest.skip(str(reason))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([python, HERE / "in_host.py", library, folder], check=True, env=environment)
    return Ran(json.loads((folder / "runs.json").read_text()), torch.load(folder / "latents.pt"))


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Ran:
    return ran("host", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def packs(tmp_path_factory) -> Ran:
    return ran("packs", tmp_path_factory.mktemp("packs"))


@pytest.fixture(params=["host", "packs"])
def either(request) -> Ran:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def model():
    return demo_model.load("cpu")


def through_diffusers(model, config=None):
    _, prompt, seed, sampler, steps = VIDEO
    return demo_model.sample(model, prompt, seed, steps, CFG, config, sampler=sampler)


def step_of(fraction: float) -> int:
    """The first step that lies at or behind this fraction of the run."""
    return int(np.ceil(fraction * STEPS))


def most_in_a_row(computed: list[bool]) -> int:
    return max((len([*group]) for ran, group in groupby(computed) if not ran), default=0)


def test_the_plain_video_is_that_of_diffusers(either, model):
    latent, _ = through_diffusers(model)
    assert (latent - either.latents["plain"]).abs().max() < 1e-3 * latent.abs().max()


def test_off_is_plain_bit_for_bit_and_computes_everything(either):
    off = [name for name in either.latents if name.endswith(", off")]
    assert len(off) == len(either.told["settings"])
    for name in off:
        assert all(either.computed(name)), name
        assert torch.equal(either.latents[name], either.latents["plain"]), name


def test_our_node_computes_the_steps_that_the_core_computes_and_makes_its_video(host, model):
    latent, report = through_diffusers(model, auto(2.0))
    ((name, _),) = host.runs_of("AdaCache auto (node)")
    assert host.computed(name) == [each.state == "computed" for each in report.evaluations]
    assert 8 < report.computed < STEPS
    assert (latent - host.latents[name]).abs().max() < 1e-3 * latent.abs().max()


@pytest.mark.parametrize("method", NATIVE)
def test_the_native_caches_skip_the_whole_model_and_protect_both_ends(host, method):
    for name, _ in host.runs_of(method):
        computed, work = host.computed(name), host.skipped_work(name)
        assert len(work) >= STEPS // 3
        assert set(work) == {0.0}
        assert all(computed[: step_of(START)])
        assert all(computed[step_of(END) :])


def test_easycache_holds_a_difference_for_each_conditioning_and_lazycache_one_after_guidance(host):
    held = {
        method: (host.told["runs"][name]["held"] - host.told["runs"]["plain"]["held"]) / LATENT_BYTES
        for method in NATIVE
        for name, _ in host.runs_of(method)
    }
    # Beside them a subsample, an eighth in height and width, of the latent and of the output.
    assert held == pytest.approx({"EasyCache": 2, "LazyCache": 1}, abs=0.1)


@pytest.mark.parametrize("method", ["TeaCache pack", "TeaCache pack, retention", "MagCache pack"])
def test_the_packs_skip_the_blocks_and_nothing_else(packs, method):
    for name, _ in packs.runs_of(method):
        work = packs.skipped_work(name)
        assert len(work) >= STEPS // 3
        assert all(0 < each < 0.02 for each in work)


@pytest.mark.parametrize(
    ("method", "signal"), [("TeaCache pack", "embedding"), ("TeaCache pack, retention", "projection")]
)
def test_teacache_skips_while_the_estimated_change_of_the_output_stays_below_its_threshold(packs, method, signal):
    values = np.array(packs.told["signals"][signal])
    changes = [np.abs(after - before).mean() / np.abs(before).mean() for before, after in pairwise(values)]
    estimates = np.polyval(packs.told["fitted"][signal], changes)
    for name, setting in packs.runs_of(method):
        expected, distance = [True], 0.0
        for step, estimate in enumerate(estimates, start=1):
            distance += estimate
            due = distance >= setting["rel_l1_thresh"]
            distance = 0.0 if due else distance
            expected.append(due or step < step_of(setting["start_percent"]))
        assert packs.computed(name) == expected


def test_magcache_skips_while_the_error_stays_below_its_threshold_and_never_more_than_k_in_a_row(packs):
    for name, setting in packs.runs_of("MagCache pack"):
        expected, ratio, error, skipped = [], 1.0, 0.0, 0
        for step, scale in enumerate(packs.told["fitted"]["ratios"]):
            if step < int(setting["retention_ratio"] * STEPS):
                expected.append(True)
                continue
            ratio, skipped = ratio * scale, skipped + 1
            error += abs(1 - ratio)
            due = error > setting["magcache_thresh"] or skipped > setting["magcache_K"]
            if due:
                ratio, error, skipped = 1.0, 0.0, 0
            expected.append(due)
        assert packs.computed(name) == expected
        assert most_in_a_row(expected) <= setting["magcache_K"]
