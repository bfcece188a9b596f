"""ComfyUI in this process, if there is one and this Python has its requirements."""

import sys

import pytest

from research.benchmark.library import Bench, Unavailable


@pytest.fixture(scope="module")
def bench():
    """A Bench. Its tests are skipped without a ComfyUI, and in a Python that lacks ComfyUI's requirements."""
    path = sys.path.copy()
    try:
        yield Bench()
    except Unavailable as reason:
        pytest.skip(str(reason))
    finally:
        sys.path[:] = path  # other tests must not find ComfyUI's modules
