"""`python -m tools.gpu`: prepare, run, page; and, started by `run`, a part or a child of one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import page, parts, prepare, runner
from .job import Job
from .rows import Rows

TRAIN_HELP = (
    "train a demo model instead: the architecture and the 16 x 16 latents of the shipped one (what the others of "
    "train_demo need is not carried), sixteen times as many clips a step, as many steps as fit. The best checkpoint so "
    "far is in the folder from the first minute on. It is carried on from output/train as long as that is there: the "
    "state is too large to be sent around"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="gather what a bare machine with a GPU lacks")
    running = commands.add_parser("run", help="measure, on a card or in rehearsal")
    running.add_argument("--rehearse", action="store_true", help="the same code, tiny, on the CPU")
    running.add_argument("--train", action="store_true", help=TRAIN_HELP)
    running.add_argument("--only", nargs="+", choices=[part.name for part in parts.PARTS], help="these parts")
    running.add_argument("--minutes", type=float, default=runner.MINUTES, help="for all of it (default %(default)g)")
    running.add_argument("--out", type=Path, required=True, help="folder for the results")
    paging = commands.add_parser("page", help="docs/gpu.json and docs/gpu.md from the results of a run")
    paging.add_argument("folders", type=Path, nargs="+", help="of one run, or of several; of a part the last counts")
    for command in ("part", "child"):
        each = commands.add_parser(command)
        each.add_argument("name", choices=parts.BY_NAME)
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--seconds", type=float, required=True)
        each.add_argument("--rehearse", action="store_true")
        each.add_argument("--told", type=json.loads, help="JSON: what the child is given")
        each.add_argument("--rows", type=Path, help="where the child writes")
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
