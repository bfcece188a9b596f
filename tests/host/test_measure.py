"""AdaCache Measure on the demo model: what it measures, what it writes, and what it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from host.running import STEPS
from PIL import Image

from adacache_core.measured import Measured

SECRET = "a prompt that nobody else may read"


@pytest.fixture
def output(host, tmp_path):
    """The host's output folder, for this test."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def settings():
    positive = [[torch.zeros(1, 6, 4096), {"text": SECRET}]]
    negative = [[torch.ones(1, 6, 4096), {}]]
    latent = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    names = {"sampler_name": "euler", "scheduler": "simple"}
    return {"positive": positive, "negative": negative, "latent_image": latent, "seed": 3, "cfg": 4.0, **names}


@pytest.fixture
def measured(pack, demo, settings, output):
    """`measured(steps=12)` -> (what the file says, the node's output)."""

    def run(model=demo, steps=12, **changes):
        with torch.inference_mode():
            done = pack.nodes.measure.AdaCacheMeasure.execute(model, **(settings | {"steps": steps} | changes))
        (file,) = output.rglob("*.json")
        assert file.read_text() == done.args[2]
        return Measured.from_json(done.args[2]), done

    return run


def plainly(model, settings, **changes):
    """What the host's own KSampler makes."""
    import nodes as host_nodes

    given = settings | {"steps": 12} | changes
    with torch.inference_mode():
        return host_nodes.KSampler().sample(model, denoise=1.0, **given)[0]["samples"]


def test_it_runs(measured, output, demo, settings):
    found, done = measured()
    print(done.args[2][:1500])
    done.ui["images"]
    print(list(output.rglob("*")))
    import shutil

    (png,) = output.rglob("*.png")
    shutil.copy(png, "/tmp/measured.png")
    assert torch.equal(done.args[3]["samples"], plainly(demo, settings))
