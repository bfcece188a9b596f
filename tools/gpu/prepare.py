"""Gathers what a bare machine with a GPU lacks: ComfyUI's source, and packages. Needs pip and the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.host import CONSTRAINTS, PLACES, ROOT, HostError, find_host, find_python, version_of

from . import carried
from .rows import write_json
from .runner import commit

PYTHON = "3.12"  # of the machine with the GPU
GLIBC = ("2_28", "2_27", "2_24", "2_17")  # versions of glibc whose wheels fit; pip needs each of them

LIMIT_MIB = 64  # for the clone's files and the prepared folder together
NOT_NEEDED = "research/checkpoints"  # no part needs it, and it is too large to be copied

# The machine has PyTorch, torchvision, torchaudio, transformers, numpy, scipy, einops, safetensors, Pillow, PyYAML,
# aiohttp, psutil, OpenCV and pytest. With these packages too, one can import ComfyUI's samplers and node API, but not
# start its server.
OF_THE_HOST = ("av", "comfy-aimdo", "comfy-kitchen", "torchsde", "trampoline")
OF_OUR_TOOLS = ("diffusers", "kornia", "kornia-rs")

# Without their compiled kernels, which ComfyUI does not need and which alone would exceed LIMIT_MIB.
PURE = ("comfy-kitchen",)

# Top-level names in ComfyUI's folder that it imports.
SOURCE = ("comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "app", "utils", "*.py")
LEFT_OUT = ("__pycache__", "tests", "*.pyc")

CHECK = (
    "import research.quality, diffusers; from tools.gpu import hosted; hosted.start(hosted.CPU); import comfy.sd, "
    "comfy.sample, comfy.nested_tensor; from comfy_extras import nodes_torch_compile; from comfy_api import "
    "torch_helpers; hosted.pack(); print(comfy.__path__[0])"
)


def prepare() -> int:
    """Makes the folder again and prints its size.

    Returns:
        Exit status: 1 if there is no ComfyUI, something does not import, or the folder is too large to be copied.
    """
    try:
        host = find_host()
        if host is None:
            raise HostError(f"no ComfyUI was found (looked at {PLACES})")
        python = find_python(host)
        _gather(host, python)
        _check(python)
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder, tree = _mib(carried.FOLDER.iterdir()), _mib(_travelling())
    print(
        f"{carried.FOLDER.relative_to(ROOT)}: {folder:.1f} MiB, with the clone's {tree:.1f} MiB {folder + tree:.1f} MiB"
    )
    print(f"do not copy {NOT_NEEDED}: {_mib((ROOT / NOT_NEEDED).glob('*')):.1f} MiB that no part needs")
    if folder + tree > LIMIT_MIB:
        print(f"error: more than {LIMIT_MIB} MiB, the most that can be copied", file=sys.stderr)
        return 1
    return 0


def _gather(host: Path, python: Path) -> None:
    shutil.rmtree(carried.FOLDER, ignore_errors=True)
    carried.FOLDER.mkdir()
    versions = _versions(python)
    with TemporaryDirectory() as folder:
        source, packages, wheels = (Path(folder) / name for name in (carried.HOST, carried.PACKAGES, "wheels"))
        source.mkdir()
        for found in sorted(path for pattern in SOURCE for path in host.glob(pattern)):
            if found.is_dir():
                shutil.copytree(found, source / found.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
            else:
                shutil.copy(found, source)
        for name in (*OF_THE_HOST, *OF_OUR_TOOLS):
            _download(name, versions[name], wheels)
        for wheel in wheels.iterdir():
            zipfile.ZipFile(wheel).extractall(packages)  # noqa: S202 (which is how a wheel is installed)
        print("packing, which takes a minute or two ...", flush=True)
        with tarfile.open(carried.ARCHIVE, "w:xz", preset=6) as archive:
            for each in (source, packages):
                archive.add(each, each.name)
    what = {"commit": commit(), "comfyui": version_of(host), "python": PYTHON}
    write_json(carried.MANIFEST, what | {"packages": {name: versions[name] for name in (*OF_THE_HOST, *OF_OUR_TOOLS)}})


def _versions(python: Path) -> dict[str, str]:
    """Package -> version: the one in ComfyUI's Python, else the one in our constraints."""
    ask = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in (*CONSTRAINTS.read_text().splitlines(), *said.splitlines()):
        name, _, version = line.partition("==")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version.strip()
    missing = [name for name in (*OF_THE_HOST, *OF_OUR_TOOLS) if name not in found]
    if missing:
        raise HostError(f"neither the host's Python nor {CONSTRAINTS.name} has {', '.join(missing)}")
    return found


def _download(name: str, version: str, folder: Path) -> None:
    print(f"{name} {version}", flush=True)
    if name in PURE:
        kind = ["--implementation", "py", "--abi", "none", "--platform", "any"]
    else:
        platforms = [f"manylinux_{glibc}_x86_64" for glibc in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
        kind = ["--implementation", "cp", *(word for each in platforms for word in ("--platform", each))]
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary=:all:", "--python-version", PYTHON, *kind, "--dest", str(folder), f"{name}=={version}"]
    if subprocess.run(words).returncode:
        raise HostError(f"pip could not fetch {name} {version}, see above")


def _check(python: Path) -> None:
    """Checks that the gathered files can be imported, without the places they came from.

    Packages compiled for the other Python cannot be imported by this one; for them, this Python's own are used.
    """
    with carried.unpacked() as (host, packages):
        for alone in {path.parent for path in packages.rglob("*.cpython-*.so")}:
            shutil.rmtree(alone)
        environment = {**os.environ, "COMFYUI_PATH": str(host), "PYTHONPATH": str(packages)}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        done = subprocess.run([python, "-c", CHECK], cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode or str(host) not in done.stdout:
            raise HostError(f"the gathered files cannot be imported:\n{done.stderr[-2000:]}")


def _travelling() -> Iterable[Path]:
    """The files of the clone that a copy needs: all except NOT_NEEDED and those that git ignores."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in said.split("\0") if name]
    return [file for file in files if ROOT / NOT_NEEDED not in file.parents]


def _mib(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20
