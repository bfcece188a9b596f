"""Runs `tests/host` in ComfyUI's own Python and prints how many tests ran.

With `--compatibility`, the results replace those of this ComfyUI in docs/compatibility.md.
Other arguments go to pytest: `tests/host/test_laws.py -k LTXV`.
pytest is installed into a folder of ours, which comes after ComfyUI's packages; nothing is installed into ComfyUI.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

from tools.compatibility import read, save
from tools.host import CONSTRAINTS, PLACES, ROOT, HostError, find_host, find_python, version_of

PYTEST_FOLDER = ROOT / ".nox" / "host-pytest"
RESULTS = PYTEST_FOLDER / "results.xml"

# `-c` puts the root of the clone on the path. It must not be there, because our `nodes` would hide ComfyUI's.
RUN_PYTEST = (
    f"import sys; sys.path[0:1] = []; sys.path.append({str(PYTEST_FOLDER)!r}); import pytest; sys.exit(pytest.main())"
)


def main(arguments: Sequence[str] = ()) -> int:
    """Runs the tests. The last line printed says how many ran on which ComfyUI, or that none did.

    Returns:
        Exit status. If there is a ComfyUI but no test ran, this is a failure.
    """
    try:
        host = find_host()
        if host is None:
            print(f"host tests: not run and not counted as passed, because no ComfyUI was found (looked at {PLACES})")
            return 0
        python = find_python(host)
    except HostError as error:
        print(f"host tests: {error}")
        return 1
    _bring_pytest(python)
    RESULTS.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    compatibility = list(arguments[:1]) == ["--compatibility"]
    chosen = arguments[1:] if compatibility else arguments
    tests = chosen or ["tests/host"]
    command = [python, "-c", RUN_PYTEST, *tests, f"--junitxml={RESULTS}", "-p", "no:cacheprovider"]
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    ran, failed, skipped = count(RESULTS)
    if compatibility:
        save(version_of(host), made_by(python), read(RESULTS), again=bool(chosen))
    print(f"host tests: {ran} ran, {failed} failed, {skipped} skipped on ComfyUI {version_of(host)} ({host})")
    return status or int(ran == 0)


def made_by(python: Path) -> str:
    """When, from which commit and with which torch, as a sentence."""
    torch = _said([python, "-c", "import torch; print(torch.__version__)"])
    commit = _said(["git", "rev-parse", "--short", "HEAD"])
    today = date.today().isoformat()
    return f"`python -m tools.host_tests --compatibility`, {today}, commit {commit}, torch {torch}, CPU."


def _said(command: list) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def count(results: Path) -> tuple[int, int, int]:
    """How many tests of a JUnit file ran, failed (or had an error), and were skipped; zeros if there is no file."""
    if not results.exists():
        return 0, 0, 0
    suites = ElementTree.parse(results).getroot().iter("testsuite")  # noqa: S314 (we wrote it)
    sums = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for name in sums:
            sums[name] += int(suite.get(name, 0))
    return sums["tests"] - sums["skipped"], sums["failures"] + sums["errors"], sums["skipped"]


def _bring_pytest(python: Path) -> None:
    """Installs pytest for this Python, into our folder."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*command, "--target", PYTEST_FOLDER, "--constraint", CONSTRAINTS, "pytest"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
