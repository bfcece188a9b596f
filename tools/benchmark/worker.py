"""Measures videos in one process with one library: `python -m tools.benchmark.worker`, started by `__main__`.

A process of its own, because hosts of two versions cannot be imported together and a method that patches a
library must not meet the others. Its output is one record per line, as they are made; what a library prints goes
to where errors go.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tools import demo_model
from tools.quality import compare

from .library import Library, Method, NotHere
from .meter import Meter
from .records import PLAIN, Record
from .videos import Video

# How a library is called on the command line -> module and class.
LIBRARIES = {
    "diffusers": ("through_diffusers", "Diffusers"),
    "host": ("through_host", "Host"),
    "packs": ("through_host", "HostWithPacks"),
}

# Which settings of a method.
SETTINGS = {
    "all": lambda items: items,
    "every other": lambda items: items[::2],
    "middle": lambda items: items[len(items) // 2 :][:1],
}

CHECK_STEPS = 10  # enough for every method to skip something if its off setting were on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("videos", help="JSON: a list of lists of the fields of Video")
    parser.add_argument("--methods", nargs="*", help="parts of names; default all")
    parser.add_argument("--settings", choices=SETTINGS, default="all")
    parser.add_argument("--check", action="store_true", help="first see that every method's off setting is off")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        try:
            library = library_class(arguments.library)()
        except NotHere as reason:
            print(f"{arguments.library}: not run, {reason}")
            return
        methods = chosen(library.methods, arguments.methods, arguments.settings)
        if not methods:
            return
        if arguments.check:
            check_off(library, methods)
        for record in measure(library, methods, [Video(*row) for row in json.loads(arguments.videos)]):
            print(json.dumps(asdict(record)), file=out, flush=True)


def library_class(name: str) -> type[Library]:
    """Can be asked for its `python()` anywhere; only there can one be made."""
    module, cls = LIBRARIES[name]
    return getattr(import_module(f".{module}", __package__), cls)


def chosen(methods: Iterable[Method], parts: Sequence[str] | None, settings: str = "all") -> list[Method]:
    """The methods with one of `parts` in their names, with those of their settings."""
    return [
        method if method.everywhere and settings != "middle" else replace(method, settings=_some(method, settings))
        for method in methods
        if not parts or any(part in method.name for part in parts)
    ]


def _some(method: Method, settings: str) -> dict[str, Any]:
    return dict(SETTINGS[settings](list(method.settings.items())))


def check_off(library: Library, methods: Iterable[Method]) -> None:
    """Every method's off setting must give the plain video bit for bit, or its figures mean nothing.

    Raises:
        RuntimeError: it does not.
    """
    video = Video("static", "circle one red slow right dark", 1, "euler", CHECK_STEPS)
    plain = {None: library.sample(video, Meter())}
    for method in methods:
        if method.off is None:
            continue
        if method.baseline not in plain:
            plain[method.baseline] = library.sample(video, Meter(), replace(method, attach=method.baseline))
        if not torch.equal(plain[method.baseline], library.sample(video, Meter(), method, method.off)):
            raise RuntimeError(f"{method.name} at {method.off} is not the plain model in {library.name}")


def measure(library: Library, methods: Sequence[Method], videos: Sequence[Video]) -> Iterator[Record]:
    """For each video the plain one, and all methods and settings against it."""
    runs = 1 + sum(len(method.settings) for method in methods)
    bar = tqdm(total=runs * len(videos), desc=library.name, mininterval=5)
    for video in videos:
        cost = Meter()
        latent = library.sample(video, cost)
        plain = demo_model.preview(latent)
        bar.update()
        yield _record(library, PLAIN, "", video, cost, cost, plain, plain)
        for method in methods:
            for label, setting in method.settings.items():
                meter = Meter()
                cached = library.sample(video, meter, method, setting)
                bar.update()
                yield _record(library, method.name, label, video, meter, cost, plain, demo_model.preview(cached))


def _record(
    library: Library,
    method: str,
    setting: str,
    video: Video,
    meter: Meter,
    plain_meter: Meter,
    plain: Tensor,
    cached: Tensor,
) -> Record:
    quality = compare(plain, cached)
    return Record(
        method,
        setting,
        library.name,
        video.sampler,
        video.steps,
        video.motion_class,
        video.seed,
        computed_fraction=round(meter.flops / plain_meter.flops, 5),
        block_fraction=round(meter.block_calls / plain_meter.block_calls, 5),
        wall_ratio=round(meter.seconds / plain_meter.seconds, 4),
        psnr=round(quality.psnr, 3),
        ssim=round(quality.ssim, 5),
        motion_kept=round(quality.motion_kept, 4),
        bytes=max(meter.held_bytes - plain_meter.held_bytes, 0),
    )


if __name__ == "__main__":
    main()
