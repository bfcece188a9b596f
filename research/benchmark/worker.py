"""Measures in one process: `python -m research.benchmark.worker LIBRARY`, started by `__main__`.

It has a process of its own, because two versions of ComfyUI cannot be imported together, and a method that patches a
library must not affect other methods. It prints one record per line; what libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from research import clips, demo_model
from research.quality import PSNR_SEEN, closeness, compare, lpips
from tools.host import ROOT

from . import plan
from .library import PLAIN_RUN, Bench, Method, OnDiffusers, Unavailable
from .meter import Meter
from .plan import Case, Condition
from .records import BROKEN, PLAIN, Record, Store

# Library -> modules and names of the methods that run in its process.
LIBRARIES = {
    "host": (("host_caches", "OURS"), ("host_caches", "FEWER"), ("host_caches", "NATIVES"), ("host_caches", "PACKS")),
    "diffusers": (("diffusers_caches", "METHODS"), ("cache_dit_caches", "METHODS")),
    "old packs": (("host_caches", "OLD_PACKS"),),
}

RECORDS = ROOT / "docs" / "benchmarks"

# Plain videos, kept so that the next process need not make them again; git ignores the folder.
PLAINS = ROOT / "output" / "benchmark"

CHECK = Condition("euler", 12, 8.0, 4.0)  # enough steps for every method to skip some

# Standard deviation of a good latent; that of training clips is 1. Outside, a plain video is noise or has faded.
SPREAD = (0.5, 1.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--methods", nargs="*", default=[], help="parts of the names of methods; default all")
    parser.add_argument("--models", nargs="*", default=list(plan.CONDITIONS))
    parser.add_argument("--videos", type=int, default=plan.VIDEOS_OF_A_CLASS, help="videos of each motion class")
    parser.add_argument("--conditions", type=int, help="only the first N conditions of each model", metavar="N")
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--again", action="store_true", help="also measure again what is already measured")
    parser.add_argument(
        "--quick", action="store_true", help="one video of each model, the middle setting of each method"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * arguments.minutes
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            bench = open_bench(arguments.library)
        except Unavailable as reason:
            print(f"{arguments.library}: not run, {reason}")
            return
        methods = chosen(methods_of(arguments.library), arguments.methods)
        if arguments.quick:
            methods, cases = [middle(method) for method in methods], plan.quick(arguments.models)
        else:
            check_off(bench, methods)
            cases = plan.wanted(arguments.models, arguments.videos, arguments.conditions)
        stored = [] if arguments.again or arguments.quick else Store(RECORDS).records
        done = {record.key for record in stored}
        for record in measured(bench, arguments.library, methods, cases, done, deadline):
            print(json.dumps(asdict(record)), file=out, flush=True)


def open_bench(library: str) -> Bench:
    """Raises: Unavailable."""
    if library != "old packs":
        return Bench()
    from .host_caches import old_host

    return Bench(old_host())


def methods_of(library: str) -> list[Method]:
    """The methods of a library. Call this in the library's own process."""
    found: list[Method] = []
    for module, name in LIBRARIES[library]:
        found += getattr(import_module(f".{module}", __package__), name)
    return found


def chosen(methods: Iterable[Method], parts: Sequence[str]) -> list[Method]:
    """The methods with these names, else those with one of `parts` in their names; without parts, all."""
    methods = list(methods)
    names = {method.name for method in methods}
    return [
        method
        for method in methods
        if not parts or any(method.name == part if part in names else part in method.name for part in parts)
    ]


def middle(method: Method) -> Method:
    """The method with only its middle setting."""
    labels = list(method.settings)
    label = labels[len(labels) // 2]
    return replace(method, settings={label: method.settings[label]})


def check_off(bench: Bench, methods: Iterable[Method]) -> None:
    """Checks that every method's off setting gives the plain video, bit for bit; else its figures mean nothing.

    Raises:
        RuntimeError: a method's off setting changes the video.
    """
    case = plan.cases("demo", CHECK, 0)[0]
    plain = {None: bench.sample(case, Meter())}
    for method in methods:
        if method.off is None:
            continue
        baseline = None
        if isinstance(method, OnDiffusers):
            baseline = method.baseline or _plain_transformer()
            if baseline not in plain:
                plain[baseline] = bench.sample(case, Meter(), replace(method, attach=baseline))
        try:
            off = bench.sample(case, Meter(), method, method.off)
        except Unavailable:
            continue
        if not torch.equal(plain[baseline], off):
            raise RuntimeError(f"{method.name} at {method.off} is not the plain model in {bench.name}")


def _plain_transformer():
    from .guidance import plain

    return plain


def measured(
    bench: Bench, library: str, methods: Sequence[Method], cases: Iterable[Case], done: set, deadline: float
) -> Iterator[Record]:
    """Yields the records that are still to be measured: for each video, of the plain run, all methods and settings."""
    missing: set[str] = set()
    for case in tqdm(list(cases), desc=library, mininterval=30):
        todo = [
            (method, label)
            for method in methods
            if method.fits(case) and method.name not in missing
            for label in method.settings
            if (case.model, case.condition.name, method.name, label, case.motion_class, case.seed) not in done
        ]
        if not todo:
            continue
        plain = plain_of(bench, library, case)
        broken = is_broken(plain.latent)
        yield _record(bench, library, PLAIN, BROKEN if broken else "", case, plain, plain.cost, plain.latent)
        if broken:
            continue
        for method, label in todo:
            if time.monotonic() > deadline:
                return
            if method.name in missing:
                continue
            meter = Meter()
            try:
                cached = bench.sample(case, meter, method, method.settings[label])
            except Unavailable as reason:
                print(f"{method.name}: not run, {reason}", file=sys.stderr)
                missing.add(method.name)
                continue
            yield _record(bench, library, method.name, label, case, plain, meter, cached)


@dataclass(frozen=True)
class Plain:
    """A plain video: its latent, in the numbers that the model works with, and its cost."""

    latent: Tensor
    cost: Meter

    @cached_property
    def pixels(self) -> Tensor:
        return _pixels(self.latent)


def _pixels(latent: Tensor) -> Tensor:
    """The clip of the latent, (frames, height, width, 3), RGB in [0, 1]."""
    return clips.decode(latent)[0].clamp(-1, 1).permute(1, 2, 3, 0) / 2 + 0.5


def plain_of(bench: Bench, library: str, case: Case) -> Plain:
    """The plain video, from the disk if this library has made it before."""
    method = PLAIN_RUN
    if library == "diffusers":
        method = OnDiffusers(PLAIN, {"": None}, attach=_plain_transformer())
    named = sha256(repr((bench.name, library, case, _checkpoint(case))).encode()).hexdigest()[:20]
    file = PLAINS / f"{named}.pt"
    if not file.exists():
        meter = Meter()
        latent = bench.sample(case, meter, method)
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        torch.save((latent, *(getattr(meter, name) for name in COSTS)), beside)
        beside.replace(file)
    latent, *costs = torch.load(file, weights_only=True)
    meter = Meter()
    for name, cost in zip(COSTS, costs, strict=True):
        setattr(meter, name, cost)
    return Plain(latent, meter)


COSTS = ("flops", "block_calls", "held_bytes", "seconds")  # figures of a Meter


def _checkpoint(case: Case) -> str:
    return sha256(Path(case.subject.file).read_bytes()).hexdigest()


def is_broken(latent: Tensor) -> bool:
    """Whether a plain video is noise, has faded, or has numbers that are not finite."""
    spread = latent.std().item()
    return not SPREAD[0] <= spread <= SPREAD[1]


def _record(
    bench: Bench, library: str, method: str, setting: str, case: Case, plain: Plain, meter: Meter, cached: Tensor
) -> Record:
    quality = compare(demo_model.preview(plain.latent), demo_model.preview(cached), PSNR_SEEN)
    return Record(
        model=case.model,
        condition=case.condition.name,
        method=method,
        setting=setting,
        motion_class=case.motion_class,
        seed=case.seed,
        library=bench.name if library != "diffusers" else _diffusers(),
        work=meter.flops / plain.cost.flops,
        blocks=meter.block_calls / plain.cost.block_calls,
        time=meter.seconds / plain.cost.seconds,
        psnr=quality.psnr,
        worst_frame=quality.worst_frame,
        ssim=quality.ssim,
        lpips=lpips(plain.pixels, _pixels(cached)),
        motion_kept=quality.motion_kept,
        closeness=closeness(plain.latent, cached),
        bytes=max(meter.held_bytes - plain.cost.held_bytes, 0),
    )


def _diffusers() -> str:
    import diffusers

    return f"diffusers {diffusers.__version__}"


if __name__ == "__main__":
    main()
