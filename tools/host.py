"""Finds a ComfyUI and its Python, and installs one if asked to. Standard library only. `server.py` starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]

PLACES = "COMFYUI_PATH, the ComfyUI that this clone is a custom node of, ~/comfy/ComfyUI"

# Where `install` puts ComfyUI, in a folder that git ignores. A file beside it says that the installation is complete.
INSTALLED = ROOT / ".nox" / "comfyui" / "ComfyUI"
COMPLETE = "installed"

CONSTRAINTS = ROOT / "tools" / "constraints.txt"


class HostError(RuntimeError):
    """A ComfyUI cannot be used; the message says what to do."""


def find_host() -> Path | None:
    """The folder of a ComfyUI: COMFYUI_PATH, else the one that this clone is a custom node of, else ~/comfy/ComfyUI,
    else the one that `install` made. None if there is none.

    Raises:
        HostError: COMFYUI_PATH is set, but is not a ComfyUI.
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
    """The Python of this ComfyUI: COMFYUI_PYTHON, else a venv in its folder, beside it, or at ~/comfy/venv.

    Raises:
        HostError: COMFYUI_PYTHON is no program, or there is no venv.
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
    """The version from ComfyUI's `comfyui_version.py`, such as "0.33.0"."""
    match = re.search(r'__version__ = "(.+)"', (host / "comfyui_version.py").read_text())
    return match[1] if match else "of unknown version"


def install() -> Path:
    """Installs the newest ComfyUI with comfy-cli, in its own environment, unless it is installed already.

    Torch comes from the package registry like the other requirements, because that build works on CPU and GPU;
    comfy-cli would get it from elsewhere. Our constraints select versions that work together. comfy-cli stores its
    settings in the home folder, so it gets a home folder of its own.

    Returns:
        The folder of the ComfyUI.

    Raises:
        HostError: comfy-cli failed; its own messages are in the output above.
    """
    complete = INSTALLED.parent / COMPLETE
    if complete.exists():
        return INSTALLED
    home = INSTALLED.parent / "home"
    (home / ".config").mkdir(parents=True, exist_ok=True)
    # comfy-cli would install into VIRTUAL_ENV or CONDA_PREFIX.
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    environment |= {"HOME": str(home), "DO_NOT_TRACK": "1", "PIP_CONSTRAINT": str(CONSTRAINTS)}
    command = [Path(sys.executable).parent / "comfy", "--skip-prompt", f"--workspace={INSTALLED}"]
    command += ["install", "--cpu", "--skip-torch-or-directml"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode or not _is_host(INSTALLED):
        raise HostError(
            f"comfy-cli could not install ComfyUI into {INSTALLED} (see above): it needs the network, GitHub included. "
            "Set COMFYUI_PATH to an existing ComfyUI, or leave out --install-comfyui."
        )
    complete.touch()
    return INSTALLED


def _is_host(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()
