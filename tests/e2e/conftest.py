"""One real server for all tests that want one: it takes long to start. A browser for each file that wants one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.browser import find_chromium, open_page
from e2e.frontend import wait_until_ready
from e2e.shipped import DEMOS, WORKFLOWS, read_workflow, with_report

from tools.host import PLACES, ROOT, find_host
from tools.server import serve

SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else a first-run dialog covers the page
    "Comfy.Window.UnloadConfirmation": False,  # another one keeps the browser from leaving it
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",  # the clone's name on each of our nodes
}


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory) -> Path:
    """Where the server of these tests writes; its log is `server.log`."""
    return tmp_path_factory.mktemp("comfyui")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of the ComfyUI that everything here starts."""
    folder = find_host()
    if folder is None:
        pytest.skip(f"no ComfyUI was found (looked at {PLACES})")
    return folder


@pytest.fixture(scope="session")
def server(comfyui, server_folder):
    """A running ComfyUI that has the pack, under a folder name that is no Python name."""
    with serve(comfyui, server_folder) as running:
        yield running


@pytest.fixture(scope="session")
def object_info(server) -> dict:
    """The host's description of every node, ours among them."""
    return server.object_info()


@pytest.fixture(params=WORKFLOWS)
def workflow_name(request) -> str:
    """Each shipped workflow in turn."""
    return request.param


@pytest.fixture
def workflow(workflow_name) -> dict:
    """It, in the frontend's format."""
    return read_workflow(workflow_name)


@pytest.fixture(scope="session")
def prompt_of(object_info) -> Callable[[str], dict]:
    """`prompt_of(name)` -> a shipped workflow in API format, a demo `with_report`."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    def prompt(name: str) -> dict:
        workflow = read_workflow(name)
        return convert_ui_to_api(with_report(workflow) if name in DEMOS else workflow, object_info)

    return prompt


@pytest.fixture(scope="session")
def demo_prompt(prompt_of) -> dict:
    return prompt_of("demo_wan_tiny")


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the tests leave what they saw, to be looked at: `output/pictures`, which git ignores."""
    folder = ROOT / "output" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page(server, server_folder):
    """The frontend, ready for a graph."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium was found (CHROMIUM_PATH, or chromium on PATH): the frontend is not tested")
    settings = server_folder / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(SETTINGS))
    with open_page(chromium, f"http://{server.address}/") as opened:
        wait_until_ready(opened)
        yield opened
