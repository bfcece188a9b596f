"""Runs all tests: `tests/host` in ComfyUI's own Python, and all others here, at the same time. Two cores are enough.

The output of the host tests comes at the end, followed by the time of each part.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from threading import Thread

from tools.host import ROOT

OURS = [sys.executable, "-m", "pytest", "tests", "--ignore=tests/host", "-rs"]
THE_HOSTS = [sys.executable, "-m", "tools.host_tests"]

# Models in tests are tiny: a second thread would cost more than it gains, and the other part needs the core.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Part(Thread):
    """Runs one command; `status` and `seconds` are valid after `join`."""

    def __init__(self, name: str, command: Sequence[str], output=None) -> None:
        super().__init__()
        self.label, self.command, self.output = name, command, output
        self.status, self.seconds = 1, 0.0

    def run(self) -> None:
        begin = time.monotonic()
        environment = {**os.environ, **ONE_THREAD}
        done = subprocess.run(
            self.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output
        )
        self.status, self.seconds = done.returncode, time.monotonic() - begin


def main(arguments: Sequence[str] = ()) -> int:
    """Returns the exit status: 0 if both parts passed. `arguments` go to pytest, for the tests that run here."""
    with tempfile.TemporaryFile("w+") as printed:
        parts = [Part("our tests", [*OURS, *arguments]), Part("host tests", THE_HOSTS, printed)]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
        printed.seek(0)
        print("".join(printed), flush=True)
    took = ", ".join(f"{part.label} {part.seconds // 60:.0f} min {part.seconds % 60:.0f} s" for part in parts)
    print(f"side by side: {took}", flush=True)
    return max(abs(part.status) for part in parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
