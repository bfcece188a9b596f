"""Beside the real code of other packs, where these are: what they do is still done, and the report is true.

Beside their caches the picture is theirs alone. docs/neighbours.md says which commits were tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from host.pack_trials import PLAN, STEPS

# Folder, node, what the node gets besides the model where its defaults are not known, what AdaCache says.
REPLACED = "replaces this model's"
PACKS = {
    "ComfyUI-Spectrum-WAN-Proper": ("SpectrumApplyWAN", {}, REPLACED),
    "ComfyUI-CacheDiT": ("WanCacheOptimizer", {}, REPLACED),
    "ComfyUI-MagCache": ("MagCache", {"magcache_thresh": 0.24, "magcache_K": 4}, REPLACED),
    "ComfyUI-Spectrum": (
        "Spectrum",
        {
            "w": 0.5,
            "M": 4,
            "lam": 0.1,
            "warmup_steps": 3,
            "max_w": 0.8,
            "window_size": 2.0,
            "flex_window": 0.75,
            "verbose": False,
        },
        "replaces every block of this model",
    ),
}


def folder_of(pack: str, host: Path) -> Path:
    """In the ComfyUI of COMFYUI_PACKS_PATH, in this one, or in a folder `packs` beside it."""
    named = Path(os.environ.get("COMFYUI_PACKS_PATH", host))
    places = [named / "custom_nodes", host / "custom_nodes", host.parent / "packs"]
    for place in places:
        if (place / pack / "__init__.py").exists():
            return place / pack
    pytest.skip(f"{pack} is not installed")


def beside(name: str, host: Path, *arguments: str) -> dict:
    """What `beside_a_pack.py` has to say of this pack."""
    command = [sys.executable, Path(__file__).parent / "beside_a_pack.py", host, folder_of(name, host)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    if "cannot be loaded" in answer:
        pytest.skip(f"{name} cannot be loaded by this ComfyUI: {answer['cannot be loaded']}")
    return answer


@pytest.mark.parametrize("name", PACKS)
def test_beside_another_packs_cache_the_picture_is_that_of_the_other_pack_and_the_report_is_true(name, host):
    node, inputs, reason = PACKS[name]
    found = beside(name, host, "node", node, json.dumps(inputs))
    assert 0 < found.pop("ran alone") < found.pop("evaluations")  # it does answer some itself
    left = found.pop("left")
    for way, both in found.items():
        assert both["same"], way
        assert both["row is true"], way
        assert not both["skipped"], way
        assert way.endswith("off") or reason in both["notes"][0], way
    # Some leave their forward on the model after their node is gone, with what it remembers.
    assert left["row is true"]
    assert left["is plain"] or (reason in left["notes"][0] and not left["skipped"])


def test_auto_lands_on_its_target_with_the_samplers_of_res4lyf(host):
    """Those without `_ode` draw noise, which makes another video of any difference: there it skips less."""
    names = ["res_2s_ode", "res_3s_ode", "res_2s", "res_3s"]
    for which, speedup in beside("RES4LYF", host, "samplers", json.dumps(names), "[15]").items():
        assert (1.5 if "_ode" in which else 1.0) < speedup <= 2.2, which


# What is tried beside each pack, as `pack_trials.py` calls it; see there.
TRIED = {
    "ComfyUI-GGUF": ("Q8_0", "Q8_0 with a LoRA", "Q4_0", "Q4_0 with a LoRA"),
    "ComfyUI-KJNodes": (
        "NAG",
        "sage attention, a stand-in for its kernel",
        "Enhance-A-Video",
        "CFG-Zero*",
        "TorchCompileModelAdvanced",
        "TorchCompileModelWanVideoV2",
        "ScheduledCFGGuidance, a scale for each step",
        "ScheduledCFGGuidance, a part of the steps",
    ),
    "RES4LYF": ("res_2s", "res_3m", "res_2s_ode", "res_3m_ode", "ClownsharKSampler", "ReWanPatcher"),
    "rgthree-comfy": ("loaded", "Context and Any Switch"),
    "ComfyUI-MultiGPU": ("UNETLoaderMultiGPU", "UNETLoaderDisTorch2MultiGPU"),
    "ComfyUI-Advanced-ControlNet": ("loaded",),
    "ComfyUI-Manager": ("loaded",),
}
# They change no number, only how it is computed or who hands it on.
NEUTRAL = ("TorchCompileModelAdvanced", "TorchCompileModelWanVideoV2", "Context and Any Switch")
# Ways to combine ReWanPatcher with AdaCache in which nothing is skipped, and why.
STANDS_DOWN = {
    ("ReWanPatcher", "table"): "they run more than once in a call",
    ("ReWanPatcher", "planned, ours first"): "replaces this model with its own ReWanModel",
}
# Where guidance changes, whatever the plan.
CHANGES = {"ScheduledCFGGuidance, a scale for each step": 5, "ScheduledCFGGuidance, a part of the steps": 7}


@pytest.fixture(scope="module")
def trials(host):
    """`trials("RES4LYF")` -> what came of each of its trials; run once."""
    return cache(lambda name: beside(name, host, "trials"))


@pytest.mark.parametrize(("name", "trial"), [(name, trial) for name, trials in TRIED.items() for trial in trials])
def test_beside_another_pack_what_is_planned_is_skipped_and_the_report_is_true(name, trial, trials):
    found = dict(trials(name)[trial])
    assert found.pop("off is theirs alone")
    changed = found.pop("changes the video by", None)
    assert changed is None or (changed == 0) == (trial in NEUTRAL)
    assert 0 < found.pop("from the plain", 0.1) < 0.5  # it is another model, if not by much
    computed_all_the_same = found.pop("computed all the same", None)
    for way, ours in found.items():
        assert ours["report is true"], way
        assert ours["finite"], way
        reason = STANDS_DOWN.get((trial, way))
        if reason is not None:
            assert ours["same"]
            assert not ours["skipped"]
            assert reason in ours["notes"][0]
            continue
        assert ours["skipped"], way
        assert not ours["same"], way
        assert not [note for note in ours["notes"] if "cannot skip steps" in note], way
        if way.startswith("planned"):
            assert ours["notes"] == []
            also = CHANGES.get(trial)
            if also is None:
                assert ours["as planned"], way
            else:
                assert ours["computed"] == [step in (*PLAN, also) for step in range(STEPS)]
    if trial in CHANGES:
        assert computed_all_the_same == [[0, "first step"], [1, "as planned"], [CHANGES[trial], "guidance changes"]]


@pytest.mark.parametrize(
    ("saved", "ending"),
    [
        ("h264-mp4", "mp4"),
        ("webm", "webm"),
        ("ffv1-mkv", "mkv"),
        *((saved, "png") for saved in ("h264-mp4", "webm", "ffv1-mkv", "ffmpeg-gif", "gif", "webp")),
    ],
)
def test_files_that_video_helper_suite_saves_hold_the_report(saved, ending, trials):
    """In gif and webp files it writes nothing; the picture that it saves beside every file has it."""
    assert trials("ComfyUI-VideoHelperSuite")[saved][ending]
