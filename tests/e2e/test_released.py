"""What was released stays: saved workflows of every version open and run with this one.

Frozen once per version, after `nox -s test` made the environment: `.nox/test/bin/python -m tools.freeze`
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from e2e.shipped import misses_nothing_but_files, with_steps

from adacache_core.engine import FEW_STEPS
from tools.freeze import RELEASED, promises, version_of_pack

VERSIONS = sorted(path.name for path in RELEASED.iterdir() if path.is_dir())
WORKFLOWS = sorted(path.relative_to(RELEASED).as_posix() for path in RELEASED.glob("*/*.json"))


def read(file: str | Path) -> dict:
    return json.loads((RELEASED / file).read_text())


def test_this_version_is_frozen_too():
    assert version_of_pack() in VERSIONS
    assert all(any(file.startswith(f"{version}/") for file in WORKFLOWS) for version in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_node_is_still_there_and_new_inputs_and_outputs_come_after_the_old_ones(version, object_info):
    """A new input must also be optional: that puts it last, and prompts that were saved without it stay valid."""
    now = promises(object_info)
    for node, promised in read(f"{version}_nodes.json").items():
        for part, names in promised.items():
            assert now[node][part][: len(names)] == names, f"{node}: {part}"


@pytest.mark.parametrize("file", WORKFLOWS)
def test_every_released_workflow_is_still_taken(file, object_info, server):
    prompt = convert_ui_to_api(with_steps(read(file), FEW_STEPS), object_info)
    if "AdaCacheDemoModel" in {each["class_type"] for each in prompt.values()}:
        assert server.run(prompt, lambda *progress: None)
    else:
        misses_nothing_but_files(prompt, server)
