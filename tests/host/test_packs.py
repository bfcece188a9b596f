"""Beside the real code of other packs' caches, where these are: the picture is theirs alone, and the report is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    pytest.skip(f"{pack} is not on this machine (COMFYUI_PACKS_PATH, custom_nodes, packs beside the ComfyUI)")


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
    """Those without `_ode` draw noise: they never exceed it."""
    names = ["res_2s_ode", "res_3s_ode", "res_2s", "res_3s"]
    for which, speedup in beside("RES4LYF", host, "samplers", json.dumps(names), "[15]").items():
        assert 1.8 <= speedup <= (2.2 if "_ode" in which else 2.0), which
