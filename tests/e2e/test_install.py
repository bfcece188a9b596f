"""The pack as ComfyUI Manager installs it: the registry's zip, unpacked as a custom node of a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from comfy_cli.registry.config_parser import extract_node_configuration
from comfy_cli.workflow_to_api import convert_ui_to_api
from e2e.shipped import with_report, with_steps

from adacache_core import RunReport
from adacache_core.engine import FEW_STEPS
from tools.server import Server, serve

ROOT = Path(__file__).parents[2]
LARGEST = 30_000_000  # bytes
LOADED = ("nodes", "adacache_core", "web", "locales", "workflows", "subgraphs")  # folders, by the host or by our code
READ = ("README.md", "CHANGELOG.md", "LICENSE", "docs")  # by people
DECLARED = ("__init__.py", "pyproject.toml", "requirements.txt")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A fresh clone, so what is committed: the registry gets nothing else."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("git, or its .git folder here, is missing: there is nothing to pack")
    folder = tmp_path_factory.mktemp("clone")
    subprocess.run([git, "clone", "--quiet", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def comfy_node(clone, tmp_path_factory) -> Callable[[str], str]:
    """`comfy_node(command)` -> what `comfy node COMMAND` says in the clone; its settings go to a home of ours."""
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home")), "DO_NOT_TRACK": "1"}

    def run(command: str) -> str:
        words = [sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", command]
        done = subprocess.run(words, cwd=clone, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said

    return run


@pytest.fixture(scope="module")
def package(clone, comfy_node) -> Path:
    """What the registry gets and Manager downloads."""
    comfy_node("pack")
    return clone / "node.zip"


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(package).extractall(folder)
    return folder


def files_in(folder: Path, *places: str) -> set[str]:
    """All files of a folder, or those in these places of it."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if not places or path.parts[0] in places}


# What is in it


def test_the_zip_has_what_the_host_and_its_users_need_and_nothing_else(unpacked, clone):
    assert {path.name for path in unpacked.iterdir()} == {*LOADED, *READ, *DECLARED}
    assert files_in(unpacked, *LOADED, *DECLARED) == files_in(clone, *LOADED, *DECLARED)
    assert all(files_in(unpacked, folder) for folder in LOADED)
    kinds = {Path(path).suffix for path in files_in(unpacked, "docs")}
    assert kinds == {".md", ".png", ".webp"}, "records stay at home"


def test_the_zip_is_small_enough_to_download_in_passing(package):
    assert package.stat().st_size < LARGEST


def test_every_link_and_picture_of_its_pages_leads_to_a_file_of_the_zip_and_no_picture_lies_there_for_nothing(unpacked):
    """The registry's own page shows no README, only description and changelog; the help pages have a test of theirs."""
    pages = [page for page in unpacked.rglob("*.md") if "web" not in page.relative_to(unpacked).parts]
    linked = set()
    for page in pages:
        links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
        linked |= {(page.parent / link).resolve().relative_to(unpacked.resolve()).as_posix() for link in links}
    assert len(pages) > 1
    assert linked - files_in(unpacked) == set()
    assert {path for path in files_in(unpacked, "docs") if path.endswith((".png", ".webp"))} <= linked


def test_the_registry_has_nothing_to_complain_about(comfy_node):
    said = comfy_node("validate")
    assert "All validation checks passed" in said
    assert "warning" not in said.lower()


def test_an_installation_installs_nothing_else(unpacked):
    lines = (unpacked / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert extract_node_configuration(str(unpacked / "pyproject.toml")).project.dependencies == []


def test_the_changelog_begins_with_this_version(unpacked):
    version = extract_node_configuration(str(unpacked / "pyproject.toml")).project.version
    first = re.search(r"^## (.*)$", (unpacked / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert first.startswith(version)


# In a host


@dataclass
class Installation:
    """A server that has the pack from the zip.

    Attributes:
        pack: its folder.
        server: the running host.
        log: what that wrote.
    """

    pack: Path
    server: Server
    log: Path

    def get(self, path: str) -> bytes | None:
        """What the host has at this address, if anything."""
        try:
            with urlopen(f"http://{self.server.address}{path}") as answer:
                return answer.read()
        except HTTPError as error:
            if error.code != 404:
                raise
            return None


@pytest.fixture(scope="module", params=["registry name", "my AdaCache 0.1"])
def installation(request, comfyui, package, clone, tmp_path_factory):
    """In the folder that Manager makes, and in one as a person might name it."""
    name = request.param
    if name == "registry name":
        name = extract_node_configuration(str(clone / "pyproject.toml")).project.name
    work = tmp_path_factory.mktemp("comfyui")
    pack = work / "custom_nodes" / name
    zipfile.ZipFile(package).extractall(pack)
    with serve(comfyui, work, pack) as server:
        yield Installation(pack, server, work / "server.log")


@pytest.fixture
def node_ids(installation) -> set[str]:
    """Of all nodes that have a help page, which is all (tests/host/test_help.py)."""
    return {page.stem for page in (installation.pack / "web" / "docs").glob("*.md")}


def test_the_host_has_every_node_from_this_folder(installation, node_ids):
    loaded = re.findall(r" seconds.*?: (.*)$", installation.log.read_text(), re.MULTILINE)
    assert loaded == [str(installation.pack)], "another copy of the pack, or a failed import"
    info = installation.server.object_info()
    module = f"custom_nodes.{installation.pack.name}"
    assert {node for node, each in info.items() if each["python_module"] == module} == node_ids


def test_the_host_has_every_translation_and_none_of_what_is_not_there(installation, node_ids):
    languages = {path.name for path in (installation.pack / "locales").iterdir()}
    translations = json.loads(installation.get("/api/i18n"))
    assert languages <= set(translations)
    for language in languages:
        translated = {node for node in translations[language]["nodeDefs"] if node.startswith("AdaCache")}
        assert translated, language
        assert translated <= node_ids, language


def test_the_host_lists_every_workflow_as_a_template_and_the_timeline_as_an_extension(installation):
    name = installation.pack.name
    templates = json.loads(installation.get("/api/workflow_templates"))[name]
    assert sorted(templates) == sorted(path.stem for path in (installation.pack / "workflows").glob("*.json"))
    assert f"/extensions/{quote(name)}/js/timeline.js" in json.loads(installation.get("/extensions"))


def test_help_pages_templates_and_the_timeline_are_served_unless_the_folders_name_has_a_space(installation):
    """From a folder with a space in its name the host serves nothing, of any pack: its nodes are all one gets."""
    pack, name = installation.pack, quote(installation.pack.name)
    served = {f"/extensions/{name}": pack / "web", f"/api/workflow_templates/{name}": pack / "workflows"}
    for address, folder in served.items():
        for file in files_in(folder):
            expected = None if " " in pack.name else (folder / file).read_bytes()
            assert installation.get(f"{address}/{file}") == expected, file


def test_the_demo_workflow_runs(installation):
    workflow = json.loads((installation.pack / "workflows" / "demo_wan_tiny.json").read_text())
    prompt = convert_ui_to_api(with_steps(with_report(workflow), FEW_STEPS), installation.server.object_info())
    outputs = installation.server.run(prompt, lambda *progress: None)
    (text,) = (text for each in outputs.values() for text in each.get("text", ()) if "adacache.report" in text)
    report = RunReport.from_json(text)
    assert report.total == FEW_STEPS
    assert 0 < report.computed < FEW_STEPS
    clips = [file for each in outputs.values() for file in each.get("images", ()) if file["filename"].endswith(".webp")]
    assert len(clips) == 1
    assert installation.server.view(clips[0]).startswith(b"RIFF")
