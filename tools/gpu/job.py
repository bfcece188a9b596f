"""The job of a part: where to write, how long it may take, and whether this is a rehearsal. Also runs its children.

A child is the same module in another process, because each process starts one ComfyUI with one set of options.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.host import ROOT

from .rows import Rows, read_rows

POLL = 0.2  # seconds


class NotRun(Exception):
    """Nothing can be measured here; the message says why."""


@dataclass(frozen=True)
class Job:
    """One process that measures.

    Attributes:
        out: the folder for results; a part may write other files there besides its rows.
        seconds: how long it may take.
        rehearse: use tiny models on the CPU.
    """

    out: Path
    seconds: float
    rehearse: bool
    begun: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def left(self) -> float:
        return self.begun + self.seconds - time.monotonic()


def command(what: str, name: str, job: Job, seconds: float, *more: str) -> list[str]:
    """The command that starts a part, or a child, in this Python."""
    words = [sys.executable, "-m", "tools.gpu", what, name, "--out", str(job.out), "--seconds", str(seconds), *more]
    return [*words, "--rehearse"] if job.rehearse else words


def stop(process: subprocess.Popen) -> None:
    """Ends a process that leads a group, and all processes of the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def spread(
    job: Job, rows: Rows, part: str, children: Mapping[str, Mapping[str, Any]], at_once: int, each: float
) -> None:
    """Runs children of this part at the same time, and copies their rows as they come.

    Args:
        part: name of this part.
        children: key -> arguments for the part's `child`, in addition to the job and the rows.
        at_once: how many may run at the same time.
        each: seconds that one may take.
    """
    waiting, running = list(children), {}
    with TemporaryDirectory() as folder:
        places = {key: Path(folder) / f"{number}.json" for number, key in enumerate(children)}
        while waiting or running:
            while waiting and len(running) < at_once:
                key = waiting.pop(0)
                if job.left < POLL:
                    rows.put(key, {**_labels(children[key]), "not_run": "no time was left"})
                    continue
                limit = min(each, job.left)
                told = json.dumps(children[key])
                words = command("child", part, job, limit, "--told", told, "--rows", str(places[key]))
                # In the group of the part, so that both end together.
                running[key] = subprocess.Popen(words, cwd=ROOT), time.monotonic() + limit
            time.sleep(POLL)
            for key, (process, until) in list(running.items()):
                late = time.monotonic() > until
                if process.poll() is None and not late:
                    continue
                if late:
                    process.kill()
                    process.wait()
                del running[key]
                if late or process.returncode:
                    how = "ran over its time" if late else f"ended with status {process.returncode}"
                    rows.put(f"{key}, end", {**_labels(children[key]), "ok": False, "not_run": f"the rest: {how}"})
            for key, place in places.items():
                rows.put_all({f"{key} {number}": row for number, row in enumerate(read_rows(place))})


def _labels(told: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a child, as columns of a row that it did not write itself."""
    return {name: value if isinstance(value, str) else " ".join(value) for name, value in told.items() if value}
