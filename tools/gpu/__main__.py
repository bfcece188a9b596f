"""`python -m tools.gpu`: the commands prepare, run and page. `run` itself starts the commands part and child."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import page, parts, prepare, runner
from .job import Job
from .rows import Rows

TRAIN_HELP = (
    "train a demo model instead, with the architecture and the 16 x 16 latents of the shipped one (the files for other "
    "models are not copied): sixteen times as many clips per step, and as many steps as there is time for. From the "
    "first minute on, the folder has the best checkpoint so far. The training continues from output/train if that "
    "exists; its state is too large to be copied"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="gather the files that a bare machine with a GPU lacks")
    running = commands.add_parser("run", help="measure on a card, or rehearse")
    running.add_argument("--rehearse", action="store_true", help="run the same code with tiny models on the CPU")
    running.add_argument("--train", action="store_true", help=TRAIN_HELP)
    running.add_argument("--only", nargs="+", choices=[part.name for part in parts.PARTS], help="only these parts")
    running.add_argument("--minutes", type=float, default=runner.MINUTES, help="for all parts (default %(default)g)")
    running.add_argument("--out", type=Path, required=True, help="folder for the results")
    paging = commands.add_parser("page", help="write docs/gpu.json and docs/gpu.md from the results of a run")
    paging.add_argument("folders", type=Path, nargs="+", help="of one or several runs; for each part the last counts")
    for command in ("part", "child"):
        each = commands.add_parser(command)
        each.add_argument("name", choices=parts.BY_NAME)
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--seconds", type=float, required=True)
        each.add_argument("--rehearse", action="store_true")
        each.add_argument("--told", type=json.loads, help="JSON with the arguments of the child")
        each.add_argument("--rows", type=Path, help="file for the child's rows")
    options = parser.parse_args(arguments)

    if options.command == "prepare":
        return prepare.prepare()
    if options.command == "page":
        return page.keep(options.folders)
    if options.command == "run":
        chosen = [part for part in parts.PARTS if not options.only or part.name in options.only]
        chosen = [parts.TRAIN] if options.train else chosen
        out = options.out.absolute()
        return 0 if runner.run_parts(chosen, out, options.rehearse, options.minutes, options.train) else 1
    part = parts.BY_NAME[options.name]
    job = Job(options.out, options.seconds, options.rehearse)
    if options.command == "part":
        return runner.do_part(part, lambda: part.module.run(job, Rows(job.out / f"{part.name}.json")))
    return runner.do_part(part, lambda: part.module.child(job, Rows(options.rows), **options.told))


if __name__ == "__main__":
    sys.exit(main())
