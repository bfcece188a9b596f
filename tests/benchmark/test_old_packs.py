"""Tests the packs that need an older ComfyUI, in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from research.benchmark.host_caches import old_host
from research.benchmark.library import Unavailable

HERE = Path(__file__).parent


def test_the_packs_do_what_their_authors_say(bench):
    """The fixture `bench` skips this test if ComfyUI cannot be imported."""
    try:
        old_host()
    except Unavailable as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "pytest", HERE / "in_old_host.py", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
