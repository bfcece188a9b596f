"""The folder that is copied to a bare machine together with the clone: its content, and how to unpack it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.host import ROOT

FOLDER = ROOT / ".gpu"
ARCHIVE = FOLDER / "carried.tar.xz"  # xz: zipped, the wheels would be half as large again
MANIFEST = FOLDER / "manifest.json"

HOST, PACKAGES = "ComfyUI", "packages"  # folder in the archive


@contextmanager
def unpacked() -> Iterator[tuple[Path, Path]]:
    """Yields ComfyUI's folder and a folder of packages for sys.path; removes both afterwards."""
    with TemporaryDirectory(prefix="gpu-") as folder:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)  # noqa: S202 (we made it)
        yield Path(folder) / HOST, Path(folder) / PACKAGES
