"""Where a ComfyUI is, and the Python it runs in: the one place that knows. Standard library only.

Says where, and installs one when asked to; starts nothing (`server.py` does).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]

PLACES = "COMFYUI_PATH, the ComfyUI that this clone is a custom node of, ~/comfy/ComfyUI"

# What `install` makes, in a folder of ours that git ignores; there is a file beside it once it is complete.
INSTALLED = ROOT / ".nox" / "comfyui" / "ComfyUI"
COMPLETE = "installed"

CONSTRAINTS = ROOT / "tools" / "constraints.txt"


class HostError(RuntimeError):
    """A ComfyUI that was named or found cannot be used; the message says what to do."""


def find_host() -> Path | None:
    """The folder of a ComfyUI, the first of: COMFYUI_PATH, the one that this clone is a custom node
    of, ~/comfy/ComfyUI, the one that `install` made. None if there is none.

    Raises:
        HostError: COMFYUI_PATH is set and is not a ComfyUI; then no other is taken in its place.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        if not _is_host(folder):
            raise HostError(f"COMFYUI_PATH={named} is not a ComfyUI: it has no main.py and comfyui_version.py")
        return folder
    places = [Path("~/comfy/ComfyUI").expanduser()]
    if ROOT.parent.name == "custom_nodes":
        places.insert(0, ROOT.parents[1])
    if (INSTALLED.parent / COMPLETE).exists():
        places.append(INSTALLED)
    return next(filter(_is_host, places), None)


def find_python(host: Path) -> Path:
    """The Python that this ComfyUI runs in: COMFYUI_PYTHON, or a venv in, beside or at the usual place.

    Raises:
        HostError: COMFYUI_PYTHON leads nowhere, or there is no venv.
    """
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        found = shutil.which(Path(named).expanduser())
        if found is None:
            raise HostError(f"COMFYUI_PYTHON={named} cannot be run")
        return Path(found)
    venvs = [host / "venv", host / ".venv", host.parent / "venv", Path("~/comfy/venv").expanduser()]
    for venv in venvs:
        if (venv / "bin" / "python").exists():
            return venv / "bin" / "python"
    raise HostError(f"there is a ComfyUI at {host} but no Python for it: set COMFYUI_PYTHON")


def version_of(host: Path) -> str:
    """As the host's `comfyui_version.py` has it, "0.33.0" say."""
    match = re.search(r'__version__ = "(.+)"', (host / "comfyui_version.py").read_text())
    return match[1] if match else "of unknown version"


def install() -> Path:
    """Installs the newest ComfyUI with comfy-cli, to completion, with an environment of its own; once.

    Torch comes from the package registry with the other requirements, whose build serves CPU and GPU
    (comfy-cli would take it from elsewhere), and in versions that fit together, which the host does not
    ask for. comfy-cli keeps settings at home, so it is given a home of ours.

    Returns:
        The folder of the ComfyUI.

    Raises:
        HostError: comfy-cli did not get to the end; its own words are in the output before.
    """
    complete = INSTALLED.parent / COMPLETE
    if complete.exists():
        return INSTALLED
    home = INSTALLED.parent / "home"
    (home / ".config").mkdir(parents=True, exist_ok=True)
    # comfy-cli installs into VIRTUAL_ENV or CONDA_PREFIX where it sees one.
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    environment |= {"HOME": str(home), "DO_NOT_TRACK": "1", "PIP_CONSTRAINT": str(CONSTRAINTS)}
    command = [Path(sys.executable).parent / "comfy", "--skip-prompt", f"--workspace={INSTALLED}"]
    command += ["install", "--cpu", "--skip-torch-or-directml"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode or not _is_host(INSTALLED):
        raise HostError(
            f"comfy-cli could not install ComfyUI into {INSTALLED} (see above): it needs the network, GitHub included. "
            "Set COMFYUI_PATH to a ComfyUI that is there, or leave --install-comfyui out."
        )
    complete.touch()
    return INSTALLED


def _is_host(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()
