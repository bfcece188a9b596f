"""The table of parts, most important first: description, time limit, and columns of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

from .hosted import AUTO, COMPUTED, SPEEDUP, STEPS, TABLE

WANTED = 0.97  # realised speed-up over counted speed-up


@dataclass(frozen=True)
class Part:
    """One file of this package with a function `run(job, rows)`, which runs in its own process.

    Attributes:
        name: of the file.
        title: heading on the page.
        says: explanation of the figures, for the page.
        seconds: time limit on a card.
        least: seconds that earlier parts must leave for it.
        rehearsed: time limit in a rehearsal, in seconds.
        columns: key of a row -> heading.
    """

    name: str
    title: str = ""
    says: str = ""
    seconds: float = 60
    least: float = 0
    rehearsed: float = 120
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> ModuleType:
        return import_module(f"tools.gpu.{self.name}")


_WAYS = (
    f"*{AUTO}* is the preset with a speed-up of {SPEEDUP:g}: it forecasts the output of the model. *{TABLE}* reuses "
    f"residuals of blocks, as the paper's tables do, and measures metric and motion; {COMPUTED} of {STEPS} steps are "
    "computed."
)
_HOST = {"model": "model", "numbers": "numbers", "started": "host started with", "dynamic_vram": "dynamic VRAM"}

PARTS = (
    Part(
        "laws",
        "The laws",
        "The tests of `tests/host/test_laws.py`, on tiny models that run entirely on the card: off changes nothing, "
        "the model is unchanged, batching changes nothing, a reused step equals reuse block by block, a stopped run "
        "leaves no trace, the report is true. Law 3 needs float32. The error is the largest one that a test measured, "
        "of the tests that allow an error.",
        seconds=130,
        rehearsed=240,
        columns=_HOST | {"laws": "laws", "passed": "tests passed", "of": "of", "largest_error": "largest error"},
    ),
    Part(
        "held",
        "Bytes held, cancelled runs, out of memory, waits",
        "Bytes are those of the tensors that the run added on the card. Out of memory is real: the process may "
        "allocate hardly more than it already has. A wait is an operation that makes the CPU wait for the card. "
        + _WAYS,
        seconds=100,
        rehearsed=120,
        columns=_HOST | {"way": "way", "what": "what", "figure": "figure"},
    ),
    Part(
        "cost",
        "Cost at size",
        f"Random weights, one conditioning, {STEPS} Euler steps. {_WAYS} Times are medians by the card's clock, "
        "without the first step of the plain run. *Counted* is the speed-up in steps, *realised* the speed-up in "
        f"time; realised over counted should be {WANTED} or more. With random weights, how many steps auto skips says "
        "nothing about your model. Peaks are GiB of tensors, weights included.",
        seconds=240,
        rehearsed=120,
        columns={
            "model": "model",
            "weights": "weights",
            "way": "way",
            "place": "cache_device",
            "plain_s": "plain step, s",
            "computed_s": "computed, s",
            "reused_s": "reused, s",
            "bare_s": "embedding and head alone, s",
            "counted": "counted speed-up",
            "realised": "realised",
            "realised_over_counted": "realised over counted",
            "peak_plain_gib": "peak plain, GiB",
            "peak_gib": "peak with AdaCache, GiB",
        },
    ),
    Part(
        "compilers",
        "Compilers",
        "Models that ComfyUI compiled with `torch.compile`, with AdaCache. The error is the largest difference from "
        "the same run without compiling, relative to the largest number; there is none if rounding made auto compute "
        "other steps. *Eager step* is a plain step without compiling. *Graphs* counts the graphs of the first run. "
        + _WAYS,
        seconds=110,
        least=45,
        rehearsed=120,
        columns={
            "model": "model",
            "way": "way",
            "compiled": "compiled",
            "backend": "backend",
            "numbers": "numbers",
            "steps": "steps computed",
            "error": "error",
            "graphs": "graphs",
            "first_run_s": "first run, s",
            "eager_s": "eager step, s",
            "computed_s": "computed, s",
            "reused_s": "reused, s",
        },
    ),
    Part(
        "demo",
        "The demo",
        "The video of the demo workflow, made in ComfyUI; median of several runs. The model is so small that the card "
        "spends its time on starting kernels, not on computing.",
        seconds=45,
        least=25,
        rehearsed=120,
        columns={
            "steps": "steps computed",
            "plain_s": "plain, s",
            "cached_s": "with AdaCache, s",
            "counted": "counted speed-up",
            "measured": "measured",
            "psnr": "PSNR, dB",
            "ssim": "SSIM",
        },
    ),
)

# Runs in place of the others with --train. Its result is a checkpoint, so it is not on the page.
TRAIN = Part("train", seconds=450, rehearsed=120)

BY_NAME = {part.name: part for part in (*PARTS, TRAIN)}
