"""Codebooks that users keep, in the host's `models/adacache`: one JSON file each.

All that the pack writes goes through here.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from reprlib import repr as short

import folder_paths

from ...adacache_core.decide.codebook import Codebook
from ...adacache_core.errors import AdaCacheError
from ...adacache_core.tell.calibrate import codebook_from_json

LONGEST = 100  # bytes; with ending and all a file system takes 255, and letters may take four each
DEVICE = re.compile(
    r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])\s*(\.|$)", re.IGNORECASE
)  # whatever the ending, for Windows

log = logging.getLogger(__name__)

_complained: set[tuple[str, int]] = set()  # of broken files, each state once: schemas are asked for all the time


def folder() -> Path:
    return Path(folder_paths.models_dir) / "adacache"


def codebooks() -> dict[str, Codebook]:
    """By file name without ending; a file that is no codebook is named in the log and left out."""
    found = {}
    for path in sorted(folder().glob("*.json")):
        try:
            found[path.stem] = codebook_from_json(path.read_text(encoding="utf-8"))
        except (AdaCacheError, OSError, UnicodeDecodeError) as error:
            state = (path.name, path.stat().st_mtime_ns if path.exists() else 0)
            if state not in _complained:
                log.warning("AdaCache: %s is left out: %s", path, error)
                _complained.add(state)
    return found


def save(name: str, text: str, replace: bool = False) -> None:
    """Writes a file whole or not at all.

    Args:
        name: of the file, without ending.
        text: what is in it.
        replace: whether a file of this name may go.

    Raises:
        AdaCacheError: the name is no plain file name, or is taken.
    """
    plain = re.fullmatch(r"[\w-][\w .-]*", name) and not name.endswith((".", " ")) and len(name.encode()) <= LONGEST
    if not plain or DEVICE.match(name):
        raise AdaCacheError(
            f"{short(name)} is no name for a codebook: take letters, digits, spaces, dots, - and _, at most {LONGEST} "
            "bytes, and no name that Windows keeps for a device"
        )
    path = folder() / f"{name}.json"
    if os.path.lexists(path) and not replace:
        raise AdaCacheError(f"{path} is there already; take another name, or set save to replace")
    write(path, text)


def write(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
