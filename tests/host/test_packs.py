"""Beside the real code of other packs' caches, where these are: the picture is theirs alone, and the report is true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Folder, node, what the node gets besides the model where its defaults are not known, what AdaCache says.
REPLACED = "takes the place of this model's own forward"
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
        "takes the place of all blocks",
    ),
}


def folder_of(pack: str, host: Path) -> Path:
    """Where the pack is: COMFYUI_PACKS, the host's own custom nodes, or a folder `packs` beside the host."""
    places = [Path(os.environ.get("COMFYUI_PACKS", "/nowhere")), host / "custom_nodes", host.parent / "packs"]
    for place in places:
        if (place / pack / "__init__.py").exists():
            return place / pack
    pytest.skip(f"{pack} is not on this machine (COMFYUI_PACKS, custom_nodes, packs beside the ComfyUI)")


@pytest.mark.parametrize("name", PACKS)
def test_beside_another_packs_cache_the_picture_is_that_of_the_other_pack_and_the_report_is_true(name, host):
    node, inputs, reason = PACKS[name]
    command = [sys.executable, Path(__file__).parent / "beside_a_pack.py", host, folder_of(name, host)]
    done = subprocess.run([*command, node, json.dumps(inputs)], capture_output=True, text=True)
    if "ImportError: cannot import name" in done.stderr:
        pytest.skip(f"{name} cannot be imported by this ComfyUI: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
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
