"""The user's codebooks, in the host's `models/adacache`: one JSON file each.

Every file that the pack writes is written here.
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

LONGEST = 100  # bytes of a name; file systems take 255, and a draft's name is longer
# Names that Windows reserves, with any ending.
DEVICE = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])\s*(\.|$)", re.IGNORECASE)

log = logging.getLogger(__name__)

# Broken files and when they were last changed: each is logged once, because the host asks for schemas often.
_complained: set[tuple[str, int]] = set()


def folder() -> Path:
    return Path(folder_paths.models_dir) / "adacache"


def codebooks() -> dict[str, Codebook]:
    """Codebooks by file name without ending. A file that is not a codebook is left out, and the log names it."""
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
    """Writes a codebook, as a whole or not at all.

    Args:
        name: file name without ending.
        text: content of the file.
        replace: whether to replace a file of this name.

    Raises:
        AdaCacheError: the name is not a plain file name, or it is taken.
    """
    plain = re.fullmatch(r"[\w-][\w .-]*", name) and not name.endswith((".", " ")) and len(name.encode()) <= LONGEST
    if not plain or DEVICE.match(name):
        raise AdaCacheError(
            f"{short(name)} is not a valid name for a codebook: use letters, digits, spaces, dots, - and _, at most "
            f"{LONGEST} bytes, and no name that Windows reserves for a device"
        )
    path = folder() / f"{name}.json"
    if os.path.lexists(path) and not replace:
        raise AdaCacheError(f"{path} already exists; use another name, or set save to replace")
    write(path, text)


def write(path: Path, text: str) -> None:
    """Writes a file, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
