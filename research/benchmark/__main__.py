"""Compares AdaCache with all other training-free caches, on our small models: one command, one machine.

`python -m research.benchmark` measures everything in the plan that is not measured yet, most important first (a night
on two cores). It writes docs/benchmarks/, docs/benchmarks.md and the README's headline. You can stop it at any time, or
with `--minutes`; the same command continues. `--quick` (two minutes) makes one video of each model with one setting of
each method, and prints the results.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

from tools.host import ROOT

from . import exact, page, paired, plan, plots
from .made import circumstances, sentence
from .records import Record, Store
from .worker import LIBRARIES, RECORDS, methods_of

DOCS = ROOT / "docs"
FIGURES = DOCS / "figures.json"  # figures other than the qualities of videos
README = ROOT / "README.md"

SAVE_EVERY = 30.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one video of each model, one setting of each method; prints the results, writes nothing",
    )
    parser.add_argument("--exact", action="store_true", help="only compare plain videos with exact ones (`exact.py`)")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the pages from the records")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to continue")
    parser.add_argument("--videos", type=int, default=plan.VIDEOS_OF_A_CLASS, help="videos of each motion class")
    parser.add_argument("--conditions", type=int, help="only the first N conditions of each model", metavar="N")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--models", nargs="+", choices=plan.CONDITIONS, default=list(plan.CONDITIONS))
    parser.add_argument("--methods", nargs="+", default=[], metavar="PART", help="with one of these in their names")
    parser.add_argument("--again", action="store_true", help="also measure again what is already measured")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes, of one thread each (default 2)")
    arguments = parser.parse_args()
    options = ["--models", *arguments.models, "--methods", *arguments.methods, "--minutes", str(arguments.minutes)]
    options += ["--conditions", str(arguments.conditions)] if arguments.conditions else []
    options += ["--videos", str(arguments.videos), *["--again"] * arguments.again, *["--quick"] * arguments.quick]

    if arguments.exact:
        compare_exact(60 * arguments.minutes)
        return
    if arguments.quick:
        made = list(measured(arguments.libraries, options, arguments.jobs))
        conditions = {case.condition.name: case.condition for case in plan.quick(arguments.models)}
        for place, points in paired.points(paired.places(made)).items():
            videos, asked = max(point.videos for point in points), conditions[place.condition]
            of = f"{videos} video{'s' * (videos > 1)}, {asked.steps} steps, sampler {asked.sampler}"
            print(f"\n{place.model}: {of} ({place.condition})\n\n{page.settings(points)}")
        return
    store, figures = Store(RECORDS), json.loads(FIGURES.read_text())
    if not arguments.page:
        saved = time.monotonic()
        for record in measured(arguments.libraries, options, arguments.jobs):
            store.add([record])
            if time.monotonic() > saved + SAVE_EVERY:  # hours of work should not be lost
                store.save()
                saved = time.monotonic()
        store.save()
        figures["quality"] = {"made": circumstances(" ".join(["python -m research.benchmark", *sys.argv[1:]]))}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    write(store, figures["quality"]["made"])


def compare_exact(seconds: float) -> None:
    """Measures what is not measured yet of `exact.py`, until so much time has passed, and writes the pages."""
    deadline = time.monotonic() + seconds
    figures = json.loads(FIGURES.read_text())
    rows = figures.get("exact", {}).get("rows", [])
    for row in exact.measured(rows):
        rows.append(row)
        made = circumstances("python -m research.benchmark --exact")
        figures = json.loads(FIGURES.read_text()) | {"exact": {"made": made, "rows": rows}}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        if time.monotonic() > deadline:
            break
    write(Store(RECORDS), figures["quality"]["made"])


def write(store: Store, made: dict[str, str]) -> None:
    """Writes the pages, their plots and the README's headline."""
    compared = json.loads(FIGURES.read_text()).get("exact", {})
    for_people, all_data = page.pages(store.records, planned(), sentence(made), exact.section(compared))
    (DOCS / "benchmarks.md").write_text(for_people)
    (DOCS / "benchmarks_data.md").write_text(all_data)
    plots.draw(paired.points(paired.places(store.records)), DOCS / "images")
    conditions = plan.CONDITIONS[page.TUNED_ON]
    README.write_text(page.with_headline(README.read_text(), store.records, conditions, made["machine"]))
    print(f"written: {DOCS / 'benchmarks.md'}")


def planned() -> Counter[tuple[str, str, str]]:
    """(model, condition, method) of everything in the plan, each with its number of videos."""
    methods = [method for library in LIBRARIES for method in methods_of(library)]
    return Counter(
        (case.model, case.condition.name, method.name)
        for model in plan.CONDITIONS
        for case in plan.wanted([model])
        for method in methods
        if method.fits(case)
    )


def measured(libraries: Sequence[str], options: Sequence[str], processes: int) -> Iterator[Record]:
    """Yields the records as the workers make them.

    Raises:
        CalledProcessError: a worker failed; its output has been printed.
    """
    made: Queue[Record | None] = Queue()
    with ThreadPoolExecutor(processes) as pool:
        running = [pool.submit(_work, library, options, made.put) for library in libraries]
        for future in running:
            future.add_done_callback(lambda _: made.put(None))
        for _ in running:
            yield from iter(made.get, None)
        for future in running:
            future.result()


def _work(library: str, options: Sequence[str], put: Callable[[Record], None]) -> None:
    """Runs one worker, which prints a record per line."""
    command = [sys.executable, "-m", "research.benchmark.worker", library, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        for line in worker.stdout:
            put(Record(**json.loads(line)))
    if worker.returncode:
        raise subprocess.CalledProcessError(worker.returncode, command)


if __name__ == "__main__":
    main()
