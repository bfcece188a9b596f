"""What users install has no network, starts no program, runs no code that it is given, and writes in one place only.

Python may import what is listed here and nothing else, so that whoever adds a module looks at what it brings along.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = (ROOT / ".comfyignore").read_text().split()
SHIPPED = [path for path in sorted(ROOT.iterdir()) if path.name[0] != "." and path.name not in LEFT_OUT]
SHIPPED = [path for path in SHIPPED if f"{path.name}/" not in LEFT_OUT and path.name != "output"]


def shipped(ending: str) -> list[str]:
    found = [each for path in SHIPPED for each in ([path] if path.is_file() else path.rglob(f"*{ending}"))]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.suffix == ending)


PYTHON, SCRIPTS, PAGES = shipped(".py"), shipped(".js"), [each for each in shipped(".md") if each.startswith("web")]

MODULES = {"__future__", "abc", "collections", "contextlib", "dataclasses", "functools", "hashlib", "inspect"}
MODULES |= {
    "itertools",
    "json",
    "logging",
    "math",
    "pathlib",
    "re",
    "reprlib",
    "statistics",
    "threading",
    "time",
    "types",
    "typing",
}
MODULES |= {"PIL", "comfy", "comfy_api", "einops", "folder_paths", "kornia", "lpips", "numpy", "safetensors", "torch"}
MODULES |= {"comfyui_version", "latent_preview"}
# Of modules that can do harm, only this.
ONLY = ("importlib.util.find_spec", "os.getpid", "os.path.lexists", "os.urandom", "sys.float_info", "sys.modules")
ONLY += ("torch.hub.get_dir",)
GUARDED = ("importlib", "os", "sys", "torch.hub")
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint", "globals", "open"}
# They unpickle, compile, talk to other machines, or load libraries.
HARMFUL = re.compile(
    r"(torch|numpy|comfy\.utils)(\.\w+)*\.(load\w*|save\w*|fromfile|memmap)"
    r"|torch\.(classes|distributed|jit|multiprocessing|ops|package|utils\.cpp_extension)(\.\w+)*"
)
WRITES = {"hardlink_to", "mkdir", "rename", "rmdir", "save_file", "symlink_to", "tofile", "touch", "unlink"}
WRITES |= {"write_bytes", "write_text"}
WRITER = "nodes/host/library.py"


def names_in(source: str) -> Iterator[str]:
    """All names that are used, as they are known outside of this file; those that are not imported in <>."""
    tree, known = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                known[each.asname or each.name.split(".")[0]] = each.name if each.asname else each.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for each in node.names:
                yield f"{node.module}.{each.name}"
                known[each.asname or each.name] = f"{node.module}.{each.name}"
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in inner:
            path = []
            while isinstance(node, ast.Attribute):
                path.append(node.attr)
                node = node.value
            root = known.get(node.id, f"<{node.id}>") if isinstance(node, ast.Name) else "<>"
            yield ".".join([root, *reversed(path)])


def imported_in(source: str) -> set[str]:
    """Names of top-level modules."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in plain | named}


def belongs(name: str, to: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in to)


def harm_in(source: str, writes: bool = False) -> list[str]:
    """Everything that this Python may not do here."""
    harm = sorted(imported_in(source) - MODULES - {"importlib", "os", "sys"})
    for name in names_in(source):
        last = name.rsplit(".", 1)[-1]
        if (
            (belongs(name, GUARDED) and not belongs(name, ONLY))
            or name.strip("<>") in BUILTINS
            or HARMFUL.fullmatch(name)
            or (last in WRITES and "." in name and not writes)
        ):
            harm.append(name)
    return harm


@pytest.mark.parametrize("file", PYTHON)
def test_python_does_nothing_that_could_harm(file):
    assert harm_in((ROOT / file).read_text(encoding="utf-8"), writes=file == WRITER) == []


def test_all_of_it_is_looked_at():
    assert {"__init__.py", WRITER, "adacache_core/engine.py", "nodes/demo/model.py"} <= set(PYTHON)
    assert not [file for file in PYTHON if file.startswith(("research", "tests", "tools"))]
    assert [f"web/js/{name}.js" for name in ("speed_up", "timeline", "widgets", "words")] == SCRIPTS


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "import urllib.request as fetch",
        "from http.client import HTTPConnection",
        "import subprocess",
        "import ctypes",
        "import pickle",
        "from marshal import loads",
        "import os\nos.system('x')",
        "from os import popen",
        "import os as o\no.execv('x', [])",
        "import os\ngetattr(os, 'sys' + 'tem')",
        "from importlib import import_module",
        "import importlib.util\nimportlib.util.spec_from_file_location('x', 'y')",
        "eval('1')",
        "exec('1')",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "run = eval",
        "import torch\ntorch.load('x')",
        "from torch import load as read",
        "import torch.hub as hub\nhub.load_state_dict_from_url('x')",
        "import torch\ntorch.hub.load('x', 'y')",
        "import torch.nn\ntorch.ops.load_library('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "from comfy.utils import load_torch_file",
        "open('x', 'w')",
        "from pathlib import Path\nPath('x').write_text('y')",
        "path.parent.mkdir()",
    ],
)
def test_python_that_does_is_found(source):
    assert harm_in(source)


# Code out of text, markup out of data, and anything that goes to another machine or to another page.
HARMFUL_SCRIPT = re.compile(
    r"\beval\b|\bFunction\s*\(|\bimport\s*\(|\binnerHTML\b|\bouterHTML\b|insertAdjacentHTML|setHTML|document\.write"
    r"|\bsrcdoc\b|createContextualFragment|javascript:|\bfetch\w*\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon"
    r"|importScripts|\bWorker\s*\(|\w+://|[\"'`]//|set(Timeout|Interval)\s*\(\s*[\"'`]|\.(src|href)\b|setAttribute\(\"on"
)
IMPORTED = {"../../../scripts/api.js", "../../../scripts/app.js", "./words.js"}  # the frontend's, and our own
TRANSLATIONS = '.fetchApi("/i18n")'  # asks the host that the page is from, and sends nothing


@pytest.mark.parametrize("file", SCRIPTS)
def test_scripts_do_nothing_that_could_harm(file):
    script = (ROOT / file).read_text(encoding="utf-8")
    assert script.count(TRANSLATIONS) == (file == "web/js/words.js")
    assert not HARMFUL_SCRIPT.search(script.replace(TRANSLATIONS, ""))
    imported = set(re.findall(r"^\s*(?:import|export)\b.*[\"'](.+)[\"']", script, re.MULTILINE))
    assert "../../../scripts/app.js" in imported <= IMPORTED


@pytest.mark.parametrize(
    "script",
    [
        "eval(text)",
        "new Function('return 1')",
        "import('./x.js')",
        "element.innerHTML = message",
        "element.insertAdjacentHTML('beforeend', message)",
        "fetch('/prompt')",
        "api.fetchApi('/prompt')",
        "new WebSocket(address)",
        "navigator.sendBeacon(address)",
        "const at = 'https://example.org'",
        "const at = '//example.org'",
        "setTimeout('alert(1)', 1)",
        "image.src = message",
    ],
)
def test_a_script_that_does_is_found(script):
    assert HARMFUL_SCRIPT.search(script)


def test_the_browser_gets_scripts_pictures_and_pages_without_markup_and_nothing_else():
    kinds = {path.suffix for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert kinds == {".js", ".md", ".png", ".jpg"}
    for page in PAGES:
        assert not re.search(r"<[a-zA-Z/!]", (ROOT / page).read_text(encoding="utf-8")), page
