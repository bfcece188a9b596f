"""The host in this process, where both are fit for it."""

import sys

import pytest

from research.benchmark.library import Bench, Unavailable


@pytest.fixture(scope="module")
def bench():
    """A Bench; without a ComfyUI, or in a Python that lacks what it requires, its tests are skipped."""
    path = sys.path.copy()
    try:
        yield Bench()
    except Unavailable as reason:
        pytest.skip(str(reason))
    finally:
        sys.path[:] = path  # other tests look for no module in the host
