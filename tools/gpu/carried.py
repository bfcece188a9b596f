"""The folder that a bare machine is given beside the clone: what is in it and how it is opened. Needs no package."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.host import ROOT

FOLDER = ROOT / ".gpu"
ARCHIVE = FOLDER / "carried.tar.xz"  # xz: the wheels themselves are half as large again
MANIFEST = FOLDER / "manifest.json"

HOST, PACKAGES = "ComfyUI", "packages"  # within the archive


@contextmanager
def unpacked() -> Iterator[tuple[Path, Path]]:
    """(the host's folder, a folder of packages for the path), gone afterwards."""
    with TemporaryDirectory(prefix="gpu-") as folder:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(folder)  # noqa: S202 (we made it)
        yield Path(folder) / HOST, Path(folder) / PACKAGES
