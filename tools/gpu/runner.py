"""Runs the parts, each in its own process with a time limit, and writes into run.json how each ended.

Standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from tools.host import PLACES, ROOT, HostError, find_host, find_python, version_of

from . import carried
from .job import Job, NotRun, command, stop
from .parts import Part
from .rows import read_rows, write_json

MINUTES = 8.0  # for all parts together
GRACE = 2.0  # seconds in which a part that notices its limit can still write its results
RUN, LOG = "run.json", "log.txt"

FINISHED, FAILED, OVER, NOT_RUN = "finished", "failed", "over its time", "not run"

# Returns the command that starts a part.
Start = Callable[[Part, Job], list[str]]

# Prints the version of torch and, if there is a card that can compute, its name and the allocator.
CARD = """
import torch
print(torch.__version__)
if torch.cuda.is_available():
    torch.zeros(1, device="cuda").add_(1).item()
    print(torch.cuda.get_device_name(), torch.cuda.get_allocator_backend(), sep="\\n")
"""

# As in ComfyUI's main.py. Must be set before torch is imported; `hosted.py` tells ComfyUI.
ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}


def run_parts(parts: Sequence[Part], out: Path, rehearse: bool, minutes: float, train: bool = False) -> bool:
    """Finds ComfyUI, runs the parts and prints how each ended.

    Returns:
        Whether all parts ended without a fault.
    """
    out.mkdir(parents=True, exist_ok=True)
    with surroundings(rehearse, with_host=not train) as (python, environment):
        about = described(python, environment | ALLOCATOR, rehearse)
        if about["card"]:
            environment |= ALLOCATOR
        else:  # the allocator does not work on every card
            about = described(python, environment, rehearse)
        if not rehearse and not about["card"]:
            print("this Python's torch finds no CUDA card; --rehearse runs the same code on the CPU", file=sys.stderr)
            return False

        def start(part: Part, job: Job) -> list[str]:
            return [str(python), *command("part", part.name, job, job.seconds)[1:]]

        ended = run(parts, out, rehearse, minutes, start, environment, about)
    for name, how in ended.items():
        print(f"{name:<10} {how['seconds']:6.1f} s  {how['state']}{': ' if how['said'] else ''}{how['said']}")
    return all(how["state"] == FINISHED for how in ended.values())


def run(
    parts: Sequence[Part],
    out: Path,
    rehearse: bool,
    minutes: float,
    start: Start,
    environment: dict[str, str] | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs one part after another, and writes run.json after each.

    Returns:
        Part -> its state, a remark, and its seconds.
    """
    deadline = time.monotonic() + 60 * minutes
    ended = {part.name: {"state": NOT_RUN, "said": "the run was cut off before it", "seconds": 0.0} for part in parts}

    def write() -> None:
        write_json(out / RUN, {**(about or {}), "rehearsal": rehearse, "parts": ended})

    write()
    for number, part in enumerate(parts):
        for leftover in (out / f"{part.name}.json", *([out / LOG] if number == 0 else [])):
            leftover.unlink(missing_ok=True)
        kept = 0 if rehearse else sum(later.least for later in parts[number + 1 :])
        seconds = min(part.rehearsed if rehearse else part.seconds, deadline - time.monotonic() - kept)
        if seconds <= 0:
            ended[part.name]["said"] = "no time was left"
        else:
            print(f"{part.name}: at most {seconds:.0f} s ...", flush=True)
            ended[part.name]["said"] = "the run was cut off in it"
            write()
            begin = time.monotonic()
            state, said = _ended(part, Job(out, seconds, rehearse), start, environment)
            ended[part.name] = {"state": state, "said": said, "seconds": round(time.monotonic() - begin, 1)}
        write()
    return ended


def _ended(part: Part, job: Job, start: Start, environment: dict[str, str] | None) -> tuple[str, str]:
    """Runs one part to its end or to its time limit; returns its state and a remark."""
    with open(job.out / LOG, "ab") as log:
        log.write(f"--- {part.name}\n".encode())
        log.flush()
        process = subprocess.Popen(
            start(part, job),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children end with it
        )
        try:
            status = process.wait(job.seconds + GRACE)
        except subprocess.TimeoutExpired:
            return OVER, f"stopped after {job.seconds:.0f} s; the rows until then count"
        finally:
            stop(process)
    rows = read_rows(job.out / f"{part.name}.json")
    if status == NOTHING_TO_DO:
        return NOT_RUN, _last_line(job.out / LOG)
    if status:
        return FAILED, f"status {status}: {_last_line(job.out / LOG)}"
    wrong = [row for row in rows if row.get("ok") is False]
    if wrong:
        return FAILED, f"{len(wrong)} of {len(rows)} rows found a fault"
    return (FINISHED, "") if rows else (FAILED, "it ended without a row")


NOTHING_TO_DO = 77  # exit status of a part that could not start; it has printed the reason


def do_part(part: Part, work: Callable[[], None]) -> int:
    """Does the work of a part's process; returns the exit status."""
    try:
        work()
    except (NotRun, HostError) as reason:
        print(f"{part.name}: {reason}")
        return NOTHING_TO_DO
    return 0


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


@contextmanager
def surroundings(rehearse: bool, with_host: bool = True) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yields the Python and the environment for the parts: on a card those of `.gpu`, else those of this ComfyUI."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", "2")  # many processes share the cores
    environment.pop("PYTHONPATH", None)
    if not rehearse and carried.ARCHIVE.exists():
        with carried.unpacked() as (host, packages):
            environment |= {"COMFYUI_PATH": str(host), "COMFYUI_PYTHON": sys.executable, "PYTHONPATH": str(packages)}
            yield Path(sys.executable), environment
        return
    host = find_host()
    if host is None or not with_host:  # each part then says that there is no ComfyUI
        yield Path(sys.executable), environment
        return
    from tools.host_tests import PYTEST_FOLDER, _bring_pytest

    python = find_python(host)
    if not (PYTEST_FOLDER / "pytest").exists():
        _bring_pytest(python)
    yield python, environment | {"PYTHONPATH": str(PYTEST_FOLDER)}


def described(python: Path, environment: dict[str, str], rehearse: bool) -> dict[str, Any]:
    """The circumstances of a run."""
    told = subprocess.run([python, "-c", CARD], env=environment, capture_output=True, text=True).stdout.splitlines()
    folder = environment.get("COMFYUI_PATH") or find_host()
    return {
        "card": "" if rehearse or len(told) < 3 else told[1],
        "allocator": "" if rehearse or len(told) < 3 else told[2],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": told[0] if told else "",
        "comfyui": version_of(Path(folder)) if folder else f"none was found (looked at {PLACES})",
        "date": date.today().isoformat(),
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the clone, with "+" if files differ; in a copy without history, the one that `prepare` stored."""
    try:
        said = ["git", "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"]
        found = subprocess.run(said, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        found = ""
    if not found and carried.MANIFEST.exists():
        found = json.loads(carried.MANIFEST.read_text())["commit"]
    return found
