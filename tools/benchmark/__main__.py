"""AdaCache beside every other training-free cache on the demo model: one command, one machine, one run.

`python -m tools.benchmark` measures everything (hours) and writes docs/benchmarks.json, docs/benchmarks.md, its plots
and the README's headline; with `--methods` only those are measured again, beside the others' old figures.
`--quick` (two minutes) makes one video of 16 steps with one setting of each method, prints, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache
from queue import Queue

from tools.host import ROOT

from . import records
from .library import NotHere
from .made import circumstances, sentence
from .page import draw, every_setting, page, with_headline
from .records import Record
from .standing import ALL, points
from .videos import PLAN, Video, videos
from .worker import LIBRARIES, library_class

DOCS = ROOT / "docs"
RECORDS = DOCS / "benchmarks.json"
FIGURES = DOCS / "figures.json"  # all that is no quality of a video
README = ROOT / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one video, one setting a method; nothing is written")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page from the records")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--methods", nargs="+", default=[], metavar="PART", help="those with a part in their names")
    parser.add_argument("--samplers", nargs="+", choices=sorted({sampler for sampler, *_ in PLAN}))
    parser.add_argument("--steps", nargs="+", type=int, choices=sorted({steps for _, steps, *_ in PLAN}))
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each (default 2)")
    arguments = parser.parse_args()

    if arguments.quick:
        one = tuple(videos(steps=16, seeds=1, classes=["fast"]))
        work = [Job(library, one, "middle") for library in arguments.libraries]
        made = measured(work, arguments.jobs, arguments.methods)
        print(every_setting(point for point in points(made) if point.motion_class == ALL))
        return

    stored, figures = records.load(RECORDS), json.loads(FIGURES.read_text())
    if not arguments.page:
        work, anything = jobs(arguments.libraries, arguments.samplers, arguments.steps), False
        for record in measured(work, arguments.jobs, arguments.methods):
            anything = True
            stored = records.merged(stored, record)
            records.save(RECORDS, stored)  # hours of work: what is measured stays measured
        if not anything:
            parser.error("nothing was measured: no library is here, or no method has such a part in its name")
        figures["quality"] = {"made": circumstances(" ".join(["python -m tools.benchmark", *sys.argv[1:]]))}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    made = figures["quality"]["made"]
    (DOCS / "benchmarks.md").write_text(page(stored, sentence(made)))
    draw(stored, DOCS / "images")
    README.write_text(with_headline(README.read_text(), stored, made["machine"]))
    print(f"written: {DOCS / 'benchmarks.md'}")


@dataclass(frozen=True)
class Job:
    """What one process does: videos with one library, which settings, and whether it first sees that off is off."""

    library: str
    videos: tuple[Video, ...]
    settings: str
    check: bool = False


def jobs(libraries: Iterable[str], samplers: Sequence[str] | None, steps: Sequence[int] | None) -> list[Job]:
    """PLAN, or the part of it with these samplers and numbers of steps; a library is checked once."""
    parts = [
        (tuple(videos(sampler, count, seeds)), settings)
        for sampler, count, seeds, settings in PLAN
        if (not samplers or sampler in samplers) and (not steps or count in steps)
    ]
    return [Job(library, *part, check=part == parts[0]) for part in parts for library in libraries]


def measured(work: Sequence[Job], processes: int, methods: Sequence[str]) -> Iterator[Record]:
    """The records, as they are made; libraries that are not on this machine are named and left out.

    Raises:
        CalledProcessError: a worker failed; what it said has been printed.
    """
    made: Queue[Record | None] = Queue()
    with ThreadPoolExecutor(processes) as pool:
        running = [pool.submit(_work, job, methods, made.put) for job in work if _is_here(job.library)]
        for future in running:
            future.add_done_callback(lambda _: made.put(None))
        for _ in running:
            yield from iter(made.get, None)
        for future in running:
            future.result()


def _work(job: Job, methods: Sequence[str], put: Callable[[Record], None]) -> None:
    """One worker, whose output is a record a line."""
    python = library_class(job.library).python()
    command = [
        python,
        "-m",
        "tools.benchmark.worker",
        job.library,
        json.dumps([astuple(video) for video in job.videos]),
    ]
    command += ["--settings", job.settings, "--methods", *methods, *["--check"] * job.check]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        for line in worker.stdout:
            put(Record(**json.loads(line)))
    if worker.returncode:
        raise subprocess.CalledProcessError(worker.returncode, command)


@cache
def _is_here(library: str) -> bool:
    try:
        library_class(library).python()
    except NotHere as reason:
        print(f"{library}: not run, {reason}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
