"""Runs `tests/host` in the host's own Python, so in the host that people have, and counts what really ran.

With `--compatibility` what was found goes into docs/compatibility.md, in place of what was known of this host.
With arguments of pytest it runs what they name instead: `tests/host/test_laws.py -k LTXV`.
pytest comes from a folder of ours, behind the host's own packages; the host's environment is not written to.
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

# The root of the clone must not be on the path (`-c` puts it there): our `nodes` would hide the host's.
RUN_PYTEST = (
    f"import sys; sys.path[0:1] = []; sys.path.append({str(PYTEST_FOLDER)!r}); import pytest; sys.exit(pytest.main())"
)


def main(arguments: Sequence[str] = ()) -> int:
    """Prints, last, how many tests ran on which host, or that none did.

    Returns:
        Exit status; a host without a single test that ran is a failure.
    """
    try:
        host = find_host()
        if host is None:
            print(f"host tests: not run and not counted as passed, no ComfyUI was found (looked at {PLACES})")
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
    """How many tests ran, failed (or could not be set up), and were skipped, from a JUnit file; zeros without one."""
    if not results.exists():
        return 0, 0, 0
    suites = ElementTree.parse(results).getroot().iter("testsuite")  # noqa: S314 (we wrote it)
    sums = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for name in sums:
            sums[name] += int(suite.get(name, 0))
    return sums["tests"] - sums["skipped"], sums["failures"] + sums["errors"], sums["skipped"]


def _bring_pytest(python: Path) -> None:
    """Installs pytest into our folder, for this Python."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([*command, "--target", PYTEST_FOLDER, "--constraint", CONSTRAINTS, "pytest"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
